"""HTML reports of the folders that ``fit``, ``test`` and ``probe`` write."""
