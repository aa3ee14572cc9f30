"""The API of the Hub on 127.0.0.1: users, repositories, and one method per request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_card import card_problems, metadata_of

SPACES = "spaces/"  # prefix of the names of Spaces
ATTRIBUTES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


@dataclass
class User:
    """The owner of a token. role: of the token, "read" or "write"; orgs: name -> role there."""

    name: str
    role: str = "write"
    orgs: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Commit:
    """One state of a repository."""

    files: dict[str, bytes]
    title: str = "initial commit"
    parent: str | None = None


@dataclass
class Repository:
    """Commits by id, refs ("main", "refs/pr/1") to their ids, and who may read. sdk: of a Space."""

    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    sdk: str | None = None

    def add(self, ref: str, commit: Commit) -> str:
        """Add a commit to a ref. Returns its id."""
        oid = hashlib.sha1(f"{len(self.commits)} {ref} {commit}".encode()).hexdigest()
        self.commits[oid], self.refs[ref] = commit, oid
        return oid

    @property
    def files(self) -> dict[str, bytes]:
        """Files of main, except those that the Hub adds."""
        return {k: v for k, v in self.commits[self.refs["main"]].files.items() if k not in ATTRIBUTES}

    def history(self, ref: str = "main") -> list[str]:
        """Titles of a ref's commits, newest first, without the initial one."""
        titles, oid = [], self.refs[ref]
        while (parent := self.commits[oid].parent) is not None:
            titles.append(self.commits[oid].title)
            oid = parent
        return titles


class Request(NamedTuple):
    """A request: ``user`` is None without a token, ``body`` is parsed if it is JSON."""

    method: str
    path: str
    user: str | None
    body: Any


class Refusal(Exception):
    """An error response: status, message, and the Hub's error code."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


def is_large(path: str, sample: bytes) -> bool:
    """Whether a file belongs to the store of large files: weights, and other binary files."""
    return path.endswith((".safetensors", ".bin", ".ckpt", ".pth")) or b"\0" in sample


class _Handler(BaseHTTPRequestHandler):
    hub: Any  # the LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_ranges(self, content: bytes, **headers: str) -> None:
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not requested:
            return self.answer(200, content, **headers)
        first, last = int(requested[1]), min(int(requested[2] or len(content)), len(content) - 1)
        content_range = f"bytes {first}-{last}/{len(content)}"
        return self.answer(206, content[first : last + 1], Content_Range=content_range, **headers)

    def serve(self) -> None:
        for (pattern, failure), left in list(self.hub.fail.items()):
            if left and re.match(pattern, f"{self.command} {self.path}"):
                self.hub.fail[pattern, failure] -= 1
                if callable(failure):
                    return failure(self)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                return self.answer(failure, b'{"error": "configured failure"}')
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self.act()

    def act(self) -> None:
        raise NotImplementedError

    do_GET = do_HEAD = do_POST = do_PUT = serve


class StoreHandler(_Handler):
    """The host of large files: signed URLs, and, as with S3, no other credentials."""

    def act(self) -> None:
        self.hub.requests.append(Request(self.command, self.path, None, None))
        oid = urlsplit(self.path).path.removeprefix("/lfs/")
        if "authorization" in self.headers or "signature" not in self.path:
            self.answer(400, b"only one way of authentication is allowed")
        elif self.command == "PUT":
            right = hashlib.sha256(self.body).hexdigest() == oid
            if right:
                self.hub.objects[oid] = self.body
            self.answer(200 if right else 400)
        elif oid in self.hub.objects:
            self.send_ranges(self.hub.objects[oid], ETag=f'"{oid[:32]}"')
        else:
            self.answer(404)


class HubHandler(_Handler):
    def act(self) -> None:
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        self.user = self.hub.tokens.get(token)
        split = urlsplit(self.path)
        self.query = parse_qs(split.query)
        is_json = self.body[:1] in (b"{", b"[") and "commit" not in split.path
        self.given = json.loads(self.body) if is_json else None
        body = self.given or self.body.decode(errors="ignore")
        self.hub.requests.append(Request(self.command, self.path, self.user and self.user.name, body))
        try:
            if token and self.user is None:
                raise Refusal(401, "Invalid credentials in Authorization header")
            for pattern, name in ROUTES.items():
                if match := re.fullmatch(pattern, f"{self.command.replace('HEAD', 'GET')} {split.path}"):
                    values = {key: unquote(value) for key, value in match.groupdict().items()}
                    if values.pop("kind", "models") == "spaces":
                        values["repo"] = f"{SPACES}{values['repo']}"
                    result = getattr(self, name)(**values)
                    if result is not None:
                        self.answer(200, json.dumps(result).encode(), Content_Type="application/json")
                    return
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        except Refusal as refused:
            body = json.dumps({"error": refused.message, **refused.more}).encode()
            headers = {"X-Error-Message": " ".join(refused.message.split())} | (
                {"X-Error-Code": refused.code} if refused.code else {}
            )
            self.answer(refused.status, body, **headers)

    # permissions -----------------------------------------------------------------------------------------------------

    def may_write(self, namespace: str) -> bool:
        user = self.user
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        roles = {user.name: "admin", **user.orgs}
        return user.role == "write" and roles.get(namespace) in ("admin", "write")

    def readable(self, repo: str, rev: str = "main") -> tuple[Repository, str, Commit]:
        """Return a repository and one of its commits, if it exists and the user may read it."""
        found = self.hub.repositories.get(repo)
        mine = self.user is not None and owner(repo) in (self.user.name, *self.user.orgs)
        if found is None or (found.private and not mine):
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        oid = found.refs.get(rev, rev)
        if oid not in found.commits:
            raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        return found, oid, found.commits[oid]

    def check_write(self, repo: str, pull: bool = False) -> None:
        self.readable(repo)
        if pull and self.user is not None and self.user.role == "write":
            return
        if not self.may_write(owner(repo)):
            raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")

    # requests --------------------------------------------------------------------------------------------------------

    def whoami(self) -> Any:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in self.user.orgs.items()]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": self.user.role}}
        return {"type": "user", "name": self.user.name, "orgs": orgs, "auth": auth}

    def create(self) -> Any:
        user, name = self.user, self.given["name"]
        namespace = self.given.get("organization") or (user.name if user else "")
        if not self.may_write(namespace):
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}".')
        repo = f"{namespace}/{name}"
        if self.given.get("type") == "space":
            repo = f"{SPACES}{repo}"
        url = f"{self.hub.address}/{repo}"
        if repo in self.hub.repositories:
            raise Refusal(409, "You already created this model repo", url=url)
        made = self.hub.repositories[repo] = Repository(
            private=self.given.get("visibility") == "private", sdk=self.given.get("sdk")
        )
        made.add("main", Commit(dict(ATTRIBUTES)))
        return {"url": url, "name": repo.removeprefix(SPACES), "id": repo.removeprefix(SPACES)}

    def validate(self) -> Any:
        problems = card_problems(self.given["content"])
        found = [{"message": problem} for problem in problems]
        if problems:
            raise Refusal(400, "; ".join(problems), errors=found, warnings=[])
        return {"errors": [], "warnings": []}

    def info(self, repo: str, rev: str = "main") -> Any:
        found, oid, commit = self.readable(repo, rev)
        about = metadata_of(commit.files.get("README.md", b"").decode())
        return {
            "id": repo.removeprefix(SPACES), "modelId": repo, "sha": oid, "sdk": found.sdk,
            "private": found.private, "gated": found.gated and "auto",
            "siblings": [{"rfilename": name} for name in commit.files], "tags": about.get("tags", []),
            "library_name": about.get("library_name"), "pipeline_tag": about.get("pipeline_tag"),
        }  # fmt: skip

    def tree(self, repo: str, rev: str) -> Any:
        files = self.readable(repo, rev)[2].files
        return [{"type": "file", "path": name, "size": len(files[name]), "oid": _blob(files[name])} for name in files]

    def refs(self, repo: str) -> Any:
        refs = self.readable(repo)[0].refs
        heads = [name for name in refs if not name.startswith("refs/")]
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": refs[name]} for name in heads]
        return {"branches": branches, "tags": [], "converts": []}

    def branch(self, repo: str, rev: str) -> Any:
        self.check_write(repo)
        found, oid, _ = self.readable(repo, (self.given or {}).get("startingPoint", "main"))
        if rev in found.refs:
            raise Refusal(409, f"Reference already exists: {rev}")
        found.refs[rev] = oid
        return {}

    def preupload(self, repo: str, rev: str) -> Any:
        self.check_write(repo, pull="create_pr" in self.query)
        files = self.readable(repo, rev)[2].files
        modes = []
        for file in self.given["files"]:
            large = is_large(file["path"], base64.b64decode(file["sample"]))
            mode = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if (old := files.get(file["path"])) is not None:
                mode["oid"] = hashlib.sha256(old).hexdigest() if large else _blob(old)
            modes.append(mode)
        return {"files": modes}

    def batch(self, repo: str) -> Any:
        self.check_write(repo, pull="ref" not in self.given)  # a pull request names no ref
        answers = []
        for stored in self.given["objects"]:
            answer = dict(stored)
            if stored["oid"] not in self.hub.objects:
                put = {"href": f"{self.hub.store}/lfs/{stored['oid']}?signature=1"}
                answer["actions"] = {"upload": put, "verify": {"href": f"{self.hub.address}/{repo}.git/lfs/verify"}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def verify(self, repo: str) -> Any:
        self.check_write(repo, pull=True)
        if len(self.hub.objects.get(self.given["oid"], b"")) != self.given["size"]:
            raise Refusal(404, "the object was not uploaded")
        return {}

    def commit(self, repo: str, rev: str) -> Any:
        pull = "create_pr" in self.query
        self.check_write(repo, pull)
        found, oid, before = self.readable(repo, rev)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", oid) != oid:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(before.files)
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key.startswith("deleted"):
                gone = [name for name in files if name == value["path"] or name.startswith(value["path"] + "/")]
                for name in gone:
                    del files[name]
        if problems := card_problems(files.get("README.md", b"").decode()):
            raise Refusal(400, "; ".join(problems))
        number = 1 + sum(name.startswith("refs/pr/") for name in found.refs)
        made = found.add(f"refs/pr/{number}" if pull else rev, Commit(files, header["summary"], oid))
        url = f"{self.hub.address}/{repo}"
        answer = {"success": True, "commitOid": made, "commitUrl": f"{url}/commit/{made}", "hookOutput": ""}
        return answer | ({"pullRequestUrl": f"{url}/discussions/{number}"} if pull else {})

    def resolve(self, repo: str, rev: str, path: str) -> None:
        found, oid, commit = self.readable(repo, rev)
        if found.gated and (self.user is None or owner(repo) != self.user.name):
            message = f"Access to model {repo} is restricted. Visit {self.hub.address}/{repo} to ask for access."
            raise Refusal(403 if self.user else 401, message, "GatedRepo")
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", commit=oid)
        content = commit.files[path]
        if is_large(path, content[:512]):
            digest = hashlib.sha256(content).hexdigest()
            self.hub.objects[digest] = content
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": oid}
            self.answer(302, Location=f"{self.hub.store}/lfs/{digest}?signature=1", **linked)
        else:
            self.send_ranges(content, ETag=f'"{_blob(content)}"', X_Repo_Commit=oid)


def _blob(content: bytes) -> str:
    """Return git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def owner(repo: str) -> str:
    """Return the owner of "user/repo" or "spaces/user/space"."""
    return repo.removeprefix(SPACES).split("/")[0]


_API, _REPO = "/api/(?P<kind>models|spaces)/(?P<repo>[^/]+/[^/]+)", "/(?P<repo>(?:spaces/)?[^/]+/[^/]+)"
ROUTES = {
    "GET /api/whoami-v2": "whoami",
    "POST /api/repos/create": "create",
    "POST /api/validate-yaml": "validate",
    f"GET {_API}": "info",
    f"GET {_API}/revision/(?P<rev>[^/]+)": "info",
    f"GET {_API}/tree/(?P<rev>[^/]+)": "tree",
    f"GET {_API}/refs": "refs",
    f"POST {_API}/branch/(?P<rev>[^/]+)": "branch",
    f"POST {_API}/preupload/(?P<rev>[^/]+)": "preupload",
    f"POST {_API}/commit/(?P<rev>[^/]+)": "commit",
    rf"POST {_REPO}\.git/info/lfs/objects/batch": "batch",
    rf"POST {_REPO}\.git/lfs/verify": "verify",
    f"GET {_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)": "resolve",
}
