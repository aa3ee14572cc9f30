"""Names of the files in the folder of a run that several modules read or write."""

RUN_FILE = "run.json"  # of fit
VALIDATION = "validation"  # folder of the predictions of fit at its best epoch
TEST_FILE = "test.json"
REPORT_FILE = "report.html"


def table_file(name: str, head: str) -> str:
    """Return the file name of a table ("classes" or "confusion") of a head; "" for a single head."""
    return f"{name}_{head}.csv" if head else f"{name}.csv"
