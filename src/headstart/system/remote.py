"""Files at addresses such as `s3://bucket/photos`, through fsspec: listed, fetched when they are opened, and kept in the cache.

Addresses are paths, of the class `RemotePath`, so that whoever reads a path reads an address too. Which version of a file was
read is told by what its store says of it: the ETag or another checksum or number of the content; without these, the time of its
last change; in both cases with its size. A store that says none of it has no versions, and nothing of it is kept.

Credentials in an address are taken out where it comes in, and known to this process alone: no path, option or message has them.
"""

import atexit
import contextlib
import errno
import functools
import hashlib
import logging
import os
import posixpath
import re
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from headstart.errors import DamagedError, HeadstartError, UnreachableError
from headstart.system.cache import cache_folder, prune
from headstart.system.files import Elsewhere, is_disk_full, new_folder, open_mine, open_regular, unwritable

logger = logging.getLogger("headstart")

Result = TypeVar("Result")

# Seconds to wait before the next attempts where a connection fails: two minutes in all, and longer where it hangs.
WAITS = (1, 2, 4, 8, *[15] * 7)
PATIENCE = f"{sum(WAITS) // 60} minutes"
# A store answers after 20 to 100 ms: so many files at a time come faster than a few cores decode them.
DOWNLOADS = 32
# Bytes of the cache that copies of files may take, by default.
MOST_BYTES = 20 * 10**9
# Larger files are fetched in several requests, between which they can change.
ONE_REQUEST = 16 << 20
# From so many bytes on, it is said that a file is fetched.
LONG = 100 << 20
# So many bytes tell the kind of most images.
HEAD = 1 << 20

ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<user>[^/?]*@)?(?P<place>[^?]*)(?P<query>\?.*)?", re.DOTALL)
WEB = ("http", "https")
LOCAL = ("file", "local")
# Parameters of an address that are credentials, by their names, or as no list of names is complete, by their length.
SECRET = re.compile(
    r"(?i)[?&]([^=&]*(sig|tok|key|secret|pass|pwd|auth|cred|policy|session|jwt|code|amz|goog)[^=&]*=|[^=&]*=[^&]{20})"
)
# Stands for the host of an address without one, such as hdfs:///photos.
NO_HOST = "\x1f"

# What stores call that which tells one version of a file from others, the best first. The time alone is told by listings and by
# answers about single files in different precision, so it counts only where there is nothing better.
VERSIONS = ("ETag", "etag", "md5Hash", "md5", "Content-MD5", "content_hash", "generation", "checksum")
TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "modified", "created")

# Where credentials come from that fsspec's packages look for, by the beginning of an address.
CREDENTIALS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; a public bucket needs FSSPEC_S3_ANON=true",
    "gs": "gcloud auth application-default login; a public bucket needs FSSPEC_GS_TOKEN=anon",
    "gcs": "gcloud auth application-default login; a public bucket needs FSSPEC_GCS_TOKEN=anon",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or another of adlfs",
    "http": "user, password or signature in the address, which no run keeps",
    "https": "user, password or signature in the address, which no run keeps",
}  # fmt: skip
# Packages of the extra; others are named as they are.
IN_EXTRA = ("fsspec", "s3fs", "aiobotocore", "aiohttp")

# Statuses of HTTP, numbers of the system, and exceptions of the packages, by their names since they need not be installed, that
# say that another attempt may succeed.
TRY_AGAIN = (408, 425, 429)
BROKEN = {getattr(errno, name, None) for name in (
    "EIO", "EREMOTEIO", "EBUSY", "EPIPE", "ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ENETDOWN", "ENETUNREACH",
    "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH",
)} - {None}  # fmt: skip
BROKEN_NAMES = {
    "aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError", "botocore.HTTPClientError", "botocore.ConnectionError",
    "botocore.IncompleteReadError", "botocore.ResponseParserError", "requests.ConnectionError", "requests.Timeout",
    "requests.ChunkedEncodingError", "azure.ServiceRequestError", "azure.ServiceResponseError", "google.TransportError",
    "paramiko.SSHException",
}  # fmt: skip

# What was taken out of addresses: user and password by scheme and host, the query by the rest of the address.
USERS: dict[str, str] = {}
QUERIES: dict[str, str] = {}
# Set when the program is told to stop: nobody waits for a connection any more.
STOPPED = threading.Event()


class Found(NamedTuple):
    """What a store says of a file or folder.

    Attributes:
        version: a number that another content does not have; 0 if the store has no versions.
        size: in bytes; -1 if it is not said.
    """

    is_folder: bool
    size: int
    version: int


class Kept:
    """The copies of files in the cache, of which the least recently used go.

    Attributes:
        most: how many bytes they may take.
        written: how many bytes were added since room was made last; at first, nobody knows.
    """

    def __init__(self, most: int) -> None:
        self.most, self.written, self.lock = most, most, threading.Lock()

    def limit(self, gigabytes: int) -> None:
        """Let the copies take so much from now on."""
        if gigabytes * 10**9 != self.most:
            self.most = self.written = gigabytes * 10**9

    def add(self, size: int) -> None:
        """Count a new copy, and make room for more if a tenth of all may be new."""
        with self.lock:
            self.written += size
            if self.written > self.most / 10:
                prune(cache_folder("remote").iterdir(), int(0.9 * self.most))
                self.written = 0


KEPT = Kept(MOST_BYTES)
# When each host, bucket or the like was asked first, answered last, and was last said not to answer, in seconds
# of the monotonic clock; and which hosts of the web have never answered while others did.
ASKED: dict[str, float] = {}
ANSWERED: dict[str, float] = {}
SILENT: dict[str, float] = {}
DEAD: set[str] = set()
LOCK = threading.Lock()


def is_address(text: str) -> bool:
    """Whether a text is an address, and no path: it begins with a scheme of two letters or more, and `://`."""
    return ADDRESS.match(text) is not None


def is_web(path: Path) -> bool:
    """Whether a path is an address of http or https."""
    return isinstance(path, RemotePath) and path.parts[1] in WEB


def public(text: str, *, remember: bool = True) -> str:
    """Return an address, or a word of a command line with one, without credentials. This process remembers them.

    Of http, user and password are credentials, and so are a password elsewhere, and a query with a parameter that looks like one.
    """

    def without_credentials(found: re.Match[str]) -> str:
        scheme, user, place, query = (found[name] or "" for name in ("scheme", "user", "place", "query"))
        scheme = scheme.lower()
        if user and (":" in user or scheme in WEB):
            USERS.update({f"{scheme}://{place.partition('/')[0]}": user} if remember else {})
            user = ""
        if SECRET.search(query):
            QUERIES.update({str(parsed(f"{scheme}://{user}{place}")): query} if remember else {})
            query = ""
        return f"{scheme}://{user}{place}{query}"

    return ADDRESS.sub(without_credentials, text) if "://" in text else text


def located(given: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder that a user has named: by an address, or by a path, with `~` for the home folder."""
    if isinstance(given, RemotePath):
        return given
    text = os.fspath(given)
    if not is_address(text):
        return Path(text).expanduser()
    text = public(text)
    scheme, _, place = text.partition("://")
    return Path(place) if scheme in LOCAL else parsed(text)


def below(folder: Path, name: str) -> Path:
    """Return the path of a file that a table or a record names: by an address, or by a path relative to a folder."""
    if is_address(name):
        return located(name)
    if isinstance(folder, RemotePath):
        return Path(name) if name.startswith("/") else folder.joined(name)
    return folder / name


def parsed(address: str) -> "RemotePath":
    scheme, _, place = address.partition("://")
    return RemotePath(f"//{scheme}/{NO_HOST if place.startswith('/') else ''}{place}")


class RemotePath(Elsewhere):
    """The path of a file or folder at an address, such as `s3://bucket/photos/1.jpg`. Its text is the address.

    Below, it is a path whose root is `//`, which POSIX leaves to whoever needs it, with scheme and host as its first folders.

    Attributes:
        found: what the store says of it, once it has been asked.
        listing: what lies in it, from when it was listed until it is taken.
    """

    __slots__ = ("found", "listing")
    found: Found
    listing: "list[RemotePath] | None"

    def __str__(self) -> str:
        text = super().__str__()
        if self.root != "//":  # of a path relative to another
            return text
        scheme, _, place = text.removeprefix("//").partition("/")
        return f"{scheme}://{place.removeprefix(NO_HOST)}"

    @property
    def name(self) -> str:
        """The last part of the path. In addresses of the web, a query follows it."""
        name = super().name
        return name.partition("?")[0] if self.parts[1:2] and self.parts[1] in WEB else name

    @property
    def whole(self) -> str:
        """The address with its credentials. It must not be shown."""
        host, _, rest = str(self).partition("://")[2].partition("/")
        site = f"{self.parts[1]}://{host}"
        return f"{self.parts[1]}://{USERS.get(site, '')}{host}{'/' if rest or not host else ''}{rest}{QUERIES.get(str(self), '')}"

    @property
    def site(self) -> "RemotePath":
        """The host, bucket or the like that it lies in."""
        return RemotePath("//" + "/".join(self.parts[1:3]))

    def joined(self, name: str) -> "RemotePath":
        """Return the path of a name relative to this folder, which may begin with `..`: stores would take that for a name."""
        inner = posixpath.normpath(posixpath.join("/", *self.parts[3:], name))
        return RemotePath("//" + "/".join(self.parts[1:3]) + inner)

    def absolute(self) -> "RemotePath":
        return self

    def resolve(self, strict: bool = False) -> "RemotePath":
        return self

    def ask(self) -> Found:
        """Return what the store says of it.

        Raises:
            FileNotFoundError: there is no such file or folder.
            OSError: access is denied.
            UnreachableError: the store does not answer.
        """
        if not hasattr(self, "found"):
            self.found = self.asked_now()
        return self.found

    def asked_now(self) -> Found:
        return found_in(patiently(self, lambda store: store.info(self.whole)))

    def known(self) -> Found | None:
        """Return what the store says of what a user has named; None if it is not there.

        Raises:
            HeadstartError: access is denied; the message says what to do.
        """
        try:
            return self.ask()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HeadstartError(f"{self}: {error.strerror}") from None

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return size, -1 if it is not known, and version, which stands where files have the time of their last change."""
        found = self.ask()
        mode, number = stat.S_IFDIR if found.is_folder else stat.S_IFREG, hash(str(self)) & (2**63 - 1)
        return os.stat_result((mode | 0o444, number, 0, 1, 0, 0, found.size, 0, 0, 0), {"st_mtime_ns": found.version})

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        try:
            self.ask()
        except FileNotFoundError:
            return False
        except OSError:  # stores say so of what is missing, too: whoever reads it will see
            pass
        return True

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        found = self.known()
        return found is not None and not found.is_folder

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        found = self.known()
        return found is not None and found.is_folder

    def is_symlink(self) -> bool:
        return False

    def children(self) -> list["RemotePath"]:
        """Return what lies in this folder, sorted by name. It is listed once, until `iterdir` takes the list."""
        if getattr(self, "listing", None) is None:
            self.listing = self.listed_now()
        return self.listing or []

    def iterdir(self) -> Generator["RemotePath", None, None]:
        found, self.listing = self.children(), None  # of a tree, no more is held than is walked just now
        yield from found

    def listed_now(self) -> list["RemotePath"]:
        entries = patiently(self, lambda store: store.ls(self.whole, detail=True))
        own = {one.partition("://")[2].strip("/") for one in (str(self), self.whole)}
        found, odd = [], []
        for entry in entries:
            full = entry["name"].partition("://")[2] or entry["name"]
            name = full.rstrip("/").rpartition("/")[2]
            if full.strip("/") in own:  # an empty object stands for the folder itself
                odd += [full] if entry["type"] == "directory" else []
            elif name in ("", ".", ".."):
                odd.append(full)
            else:
                path = self / name
                path.found = found_in(entry)
                found.append(path)
        if odd:
            logger.warning("%s: %d names that no folder can have are left out, such as %r", self, len(odd), odd[0])
        return sorted(found, key=lambda path: path.name)

    @property
    def endpoint(self) -> str:
        """What to check beside the address, as the end of a list in a message."""
        return ", and AWS_ENDPOINT_URL if it is not a store of Amazon" if self.parts[1].startswith("s3") else ""

    def missing(self) -> str:
        """Return in words that there is nothing at the address."""
        if self != self.site and not self.site.exists():
            return f"there is no {self.site}: check the address{self.endpoint}"
        return f"there is nothing at {self}: check the address"

    def fetched(self) -> BufferedReader:
        """Open the file: its copy in the cache or, if there is none, one that is fetched now.

        A file whose version was asked for before, as listing a folder does, is kept in the cache under this version. Others,
        such as those of a bulk prediction, are looked at once, and are not kept.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: access is denied.
            UnreachableError: the store does not answer, or the file has changed since its version was asked for.
        """
        found: Found | None = getattr(self, "found", None)
        keep = found is not None and bool(found.version) and found.size <= KEPT.most
        entry = cache_folder("remote") / hashlib.sha256(f"{self}\0{found}".encode(errors="surrogateescape")).hexdigest()
        if keep and found and (copy := kept_copy(entry, found.size)):
            return copy
        if not arrivals().is_dir():  # the cache was cleared
            arrivals.cache_clear()
        if found and found.size > LONG:
            logger.info("%s is fetched (%.1f GB)", self, found.size / 1e9)
        number, name = tempfile.mkstemp(dir=arrivals())
        os.close(number)
        try:
            patiently(self, lambda store: store.get_file(self.whole, name))
            file = open_regular(Path(name))
            size = os.fstat(file.fileno()).st_size
            if found and (found.size not in (-1, size) or (size > ONE_REQUEST and self.asked_now() != found)):
                file.close()
                raise UnreachableError(f"{self} has changed since it was looked at first: start again, so that all is read anew")
            if keep:
                os.replace(name, entry)
                KEPT.add(size)
            return file
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def beginning(self, size: int = HEAD) -> bytes:
        """Return the first bytes of the file; all, if it is no longer."""
        if 0 <= self.ask().size <= size:
            with self.fetched() as file:
                return file.read()
        content: bytes = patiently(self, lambda store: store.cat_file(self.whole, start=0, end=size))
        return content[:size]


def kept_copy(entry: Path, size: int) -> BufferedReader | None:
    """Open a copy in the cache, and mark it as used; None if there is none, or none of this size."""
    try:
        file = open_mine(entry)
    except (FileNotFoundError, DamagedError):
        return None
    if size not in (-1, os.fstat(file.fileno()).st_size):  # of a machine that lost its power
        file.close()
        return None
    with contextlib.suppress(OSError):  # it is removed just now
        os.utime(entry)
    return file


@functools.cache
def arrivals() -> Path:
    """Return the folder where files arrive, which other processes leave alone as long as this one lives."""
    folder, _ = new_folder(cache_folder("remote"))  # its lock ends with the process
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def found_in(entry: dict[str, Any]) -> Found:
    """Return what an entry of fsspec says."""
    size, told = entry.get("size"), next((str(entry[name]) for name in (*VERSIONS, *TIMES) if entry.get(name)), "")
    digest = hashlib.blake2b(told.removeprefix("W/").strip('"').encode(), digest_size=8).digest()
    version = int.from_bytes(digest, "big") >> 1 if told else 0
    return Found(entry["type"] == "directory", -1 if size is None else int(size), version)


def ahead(function: Callable[[Path], Result], paths: Iterable[Path]) -> Iterator[Result]:
    """Yield what a function returns for each path, in order. For addresses, several are asked at a time, ahead of their turn."""
    pool, waiting = ThreadPoolExecutor(DOWNLOADS, "asking"), deque[Callable[[], Result]]()
    try:
        for path in paths:
            far = isinstance(path, RemotePath)
            waiting.append(pool.submit(function, path).result if far else partial(function, path))
            if len(waiting) > DOWNLOADS or not far:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
    finally:
        pool.shutdown(cancel_futures=True)


def threads_for(paths: Iterable[Path]) -> int | None:
    """Return how many threads read some files: more than there are cores if one lies far away, else None for the usual number."""
    return DOWNLOADS if any(isinstance(path, RemotePath) for path in paths) else None


def patiently(path: RemotePath, call: Callable[[Any], Result]) -> Result:
    """Return what a call to the store of a path gives. A connection that fails is tried again, at growing intervals.

    Raises:
        FileNotFoundError: there is no such file or folder.
        OSError: access is denied, no package knows the address, or nothing but this file, or its host of the web, fails.
        UnreachableError: the store did not answer for two minutes, or cannot be used on this machine.
        UnwritableError: the disk is full.
    """
    site, began, why = str(path.site), time.monotonic(), "it did not answer before"
    first = ASKED.setdefault(site, began)
    for wait in (*WAITS, None) if site not in DEAD else ():
        try:
            result = call(store_of(path.site.whole))
            ANSWERED[site] = time.monotonic()
            return result
        except Exception as error:  # the packages behind fsspec raise exceptions of any kind
            if isinstance(error, HeadstartError):
                raise
            if is_disk_full(error):
                raise unwritable(cache_folder("remote"), error) from None
            if not is_broken(error):
                ANSWERED[site] = time.monotonic()
                raise explained(path, error) from None
            why = reason(error)
        if wait is None or STOPPED.is_set():
            break
        say_silent(site, why)
        STOPPED.wait(wait)
    if is_web(path) and site not in ANSWERED and any(last > first for last in list(ANSWERED.values())):
        DEAD.add(site)  # of many hosts that a table names, some are gone: the others do not wait for them
    if site in DEAD or ANSWERED.get(site, began) > began:
        raise OSError(errno.EHOSTUNREACH, f"it could not be fetched for {PATIENCE} ({why}), and others could", str(path))
    raise UnreachableError(
        f"{path} could not be reached for {PATIENCE} ({why}): check the network{path.endpoint}, and start again"
    )


def say_silent(site: str, why: str) -> None:
    """Warn that a store does not answer: once for all who wait for it, until they would give up."""
    with LOCK:
        now, before = time.monotonic(), SILENT.get(site, -float("inf"))
        if now - before > sum(WAITS):
            SILENT[site] = now
            logger.warning("%s does not answer (%s): it is tried again, for up to %s", site, why, PATIENCE)


@functools.cache
def store_of(site: str) -> Any:
    """Return fsspec's file system for an address."""
    try:
        import fsspec  # an optional package

        scheme = site.partition("://")[0]
        options: dict[str, Any] = {"use_listings_cache": False}  # it would keep all names, and hide what has changed
        if scheme in ("s3", "s3a"):
            # Attempts of botocore's own would take a minute before anybody is told.
            given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            options["config_kwargs"] = {"retries": {"total_max_attempts": 1}, "max_pool_connections": DOWNLOADS} | given
        elif scheme in WEB:
            import aiohttp

            # Its own limit of five minutes for a whole file is too short for archives.
            limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
            options["client_kwargs"] = {"timeout": limits}
        return fsspec.url_to_fs(site, **options)[0]
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        package = (cause.name or "").partition(".")[0] or "fsspec"
        wanted = "'headstart[remote]'" if package in IN_EXTRA else package
        where = site.partition("://")[0]
        raise UnreachableError(f"{where}:// needs a package that is not installed: pip install {wanted}") from None


def explained(path: RemotePath, error: Exception) -> Exception:
    """Return the error for a call that no further attempt mends."""
    status, scheme = status_of(error), path.parts[1]
    if isinstance(error, FileNotFoundError) and status in (None, 404, 410):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if isinstance(error, PermissionError) or status in (401, 403):
        hint = CREDENTIALS.get(scheme, "credentials")
        return PermissionError(errno.EACCES, f"access is denied ({reason(error)}): check {hint}", str(path))
    if "Credential" in type(error).__name__:
        hint = CREDENTIALS.get(scheme, "those that its package looks for")
        return UnreachableError(f"there are no credentials for {path.site}: set {hint}")
    if isinstance(error, ValueError) and "rotocol not known" in str(error):
        return OSError(
            errno.EPROTONOSUPPORT, f"fsspec knows no {scheme}://; write ./ before a path that looks like it", str(path)
        )
    return OSError(errno.EINVAL, f"{reason(error)}: {without_secrets(str(error))}", str(path))


def is_broken(error: BaseException) -> bool:
    """Whether an exception says that a connection failed, or that a store cannot answer now."""
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror)):
        return True
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in TRY_AGAIN
    if isinstance(error, FileNotFoundError) and error.__cause__:  # fsspec's of http says so whatever failed
        return is_broken(error.__cause__)
    names = {f"{one.__module__.partition('.')[0]}.{one.__name__}" for one in type(error).__mro__}
    return (isinstance(error, OSError) and error.errno in BROKEN) or bool(names & BROKEN_NAMES)


def status_of(error: BaseException) -> int | None:
    """Return the status of HTTP that an exception was made of, or its cause; None if there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # of botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    for name in ("status", "status_code", "code"):
        if isinstance(value := getattr(error, name, None), int) and 100 <= value < 600:
            return value
    return status_of(error.__cause__) if error.__cause__ else None


def reason(error: BaseException) -> str:
    """Return in a few words what an exception is: the code of the store, the status, or its type. No text of a server."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict) and re.fullmatch(r"[A-Za-z]{3,40}", code := str(response.get("Error", {}).get("Code", ""))):
            return code
    status = status_of(error)
    return f"status {status}" if status else type(error.__cause__ or error).__name__


def without_secrets(text: str) -> str:
    """Return the first line of a text without the credentials that are known, or look like some."""
    first = text.strip().partition("\n")[0]
    for secret in (*USERS.values(), *QUERIES.values()):
        first = first.replace(secret, "")
    return public(first, remember=False)
