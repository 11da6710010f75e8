"""Where a ledger is kept: files, permissions, versions, damage, full disks, wrong places."""

import ast
import os
import re
import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from ledgers import (
    LEASE,
    NO_POSTGRES,
    POSTGRES,
    claimed,
    make_rows,
    planned,
    posted,
    postgres_schema,
    store,
    tiles,
)
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError

import hardware_runs
from hardware_runs.ledger import Ledger, documents, schema
from hardware_runs.ledger.database import Database
from hardware_runs.ledger.failures import ledger_error
from hardware_runs.ledger.upgrading import MIGRATIONS, upgrade
from qpc_qiskit.errors import (
    LedgerBusyError,
    LedgerConflictError,
    LedgerCorruptError,
    LedgerError,
    LedgerVersionError,
    MissingExtra,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, path):
    if request.param == "sqlite":
        yield str(path)
        return
    if not POSTGRES:
        pytest.skip(NO_POSTGRES)
    with postgres_schema("qpc_test_files") as url:
        yield url


@pytest.fixture
def unprivileged():
    """A folder of a user whom permissions stop; the tests may be run by root."""
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# Files


def test_file_and_folders_are_for_their_owner_alone(tmp_path):
    path = tmp_path / "new" / "deeper" / "runs.db"
    old = os.umask(0)
    try:
        with Ledger(path) as ledger:
            journals = []

            @event.listens_for(ledger._database.engine, "commit")
            def _look(_):
                journals.extend(mode(each) for each in path.parent.glob("*-journal"))

            planned(ledger)
    finally:
        os.umask(old)
    assert mode(path) == 0o600
    assert [mode(folder) for folder in path.parents[:2]] == [0o700, 0o700]
    assert set(journals) == {0o600}
    assert [each.name for each in path.parent.iterdir()] == ["runs.db"]


def test_permissions_of_an_existing_file_are_kept(path):
    path.touch()
    path.chmod(0o660)
    with Ledger(path) as ledger:
        planned(ledger)
    assert mode(path) == 0o660


def test_settings_of_the_database(path):
    path_ = str(path)
    with Ledger(path_) as ledger, ledger._database.write() as connection:
        pragma = lambda name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()  # noqa: E731
        assert pragma("journal_mode") == "delete"
        assert pragma("synchronous") == 3  # EXTRA
        assert pragma("foreign_keys") == 1
        assert pragma("busy_timeout") == 60_000
        with (
            sqlite3.connect(path, timeout=0) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_every_way_to_name_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with Ledger("runs.db") as ledger:
        run = ledger.create_run("digits", {}, now=1.0)
        assert ledger.name == str(tmp_path / "runs.db")
    for where in (
        "~/runs.db",
        tmp_path / "runs.db",
        "sqlite:///runs.db",
        f"sqlite:///{tmp_path}/runs.db",
    ):
        with Ledger(where, create=False) as ledger:
            assert ledger.list_runs() == (run,)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("sqlite://", "Use the path of a file on disk"),
        ("sqlite:///:memory:", "Use the path of a file on disk"),
        ("sqlite:///x.db?mode=ro", "Use the path of a file on disk"),
        ("nonsense://secret@x/y", "cannot be kept in 'nonsense'"),
        ("://", "URL is not valid"),
    ],
)
def test_places_that_are_refused(where, message):
    with pytest.raises(LedgerError, match=message) as caught:
        Ledger(where)
    assert "secret" not in str(caught.value)


def test_a_missing_ledger_is_not_made_by_looking(path):
    with pytest.raises(LedgerError, match=r"runs.db: there is none. `qpc run submit`"):
        Ledger(path, create=False)
    assert not path.exists()
    with pytest.raises(LedgerError, match="expected a file, found a folder"):
        Ledger(path.parent)


def test_something_else_at_that_place(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(LedgerError, match=r"runs.db: .* something else \(it has the tables mine\)"):
        Ledger(path)
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(LedgerError, match=r"runs.db: it is damaged, or no ledger at all"):
        Ledger(path)


def test_an_interrupted_statement_leaves_no_lock(path):
    """Even while its traceback is kept, as notebooks do."""

    class Stop(BaseException):
        pass

    kept = []
    with Ledger(path) as ledger:
        engine = ledger._database.engine

        def stop(*_):
            raise Stop

        event.listen(engine, "after_cursor_execute", stop)
        try:
            ledger.create_run("digits", {}, now=1.0)
        except Stop as error:
            kept.append(error)
        event.remove(engine, "after_cursor_execute", stop)
        with sqlite3.connect(path, timeout=0) as other:
            other.execute("BEGIN IMMEDIATE")
        other.close()
    assert len(kept) == 1


def test_a_lock_that_is_held_for_too_long(path, monkeypatch):
    monkeypatch.setattr("hardware_runs.ledger.database.BUSY_SECONDS", 0.01)
    with Ledger(path) as ledger:
        planned(ledger)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerBusyError, match=r"runs.db: another process kept it locked"):
            ledger.create_run("other", {}, now=1.0)
        other.close()
        ledger.create_run("other", {}, now=1.0)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_place_that_cannot_be_written(unprivileged, what):
    path = unprivileged / "runs.db"
    with Ledger(path) as ledger:
        run, block = planned(ledger)
        (path if what == "file" else unprivileged).chmod(0o400 if what == "file" else 0o500)
        with pytest.raises(
            LedgerError, match=r"runs.db: .*Make the file and its folder .* Nothing of this step"
        ):
            claimed(ledger, block.chunks[0])
    with Ledger(path) as ledger:  # what is there can still be read
        assert ledger.get_run("digits") == run
        assert ledger.state(run.id).attempts() == ()
    path.chmod(0o600)
    unprivileged.chmod(0o700)
    with Ledger(path) as ledger:
        assert claimed(ledger, block.chunks[0]).number == 1


def test_a_place_where_nothing_can_be_made(unprivileged):
    unprivileged.chmod(0o500)
    for path in (unprivileged / "runs.db", unprivileged / "new" / "runs.db"):
        with pytest.raises(LedgerError, match=r"runs.db: its file or folder cannot be made"):
            Ledger(path)


def test_a_full_disk(path):
    with Ledger(path) as ledger:
        run, block = planned(ledger)
        engine = ledger._database.engine

        def fill(connection, _):
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={pages}").close()

        event.listen(engine, "connect", fill)
        big = make_rows(4000)
        with pytest.raises(
            LedgerError, match=r"runs.db: the disk is full. Free .* Nothing of this"
        ):
            ledger.freeze_block(run.id, "features.0", 4, 4000, big, tiles(4000, 400), now=3.0)
        event.remove(engine, "connect", fill)
        assert len(ledger.state(run.id).all_blocks) == 1
        assert len(ledger.state(run.id).chunks()) == 2
        ledger.freeze_block(run.id, "features.0", 4, 4000, big, tiles(4000, 400), now=3.0)
        assert claimed(ledger, block.chunks[0]).number == 1


def test_rows_beyond_what_a_database_takes(path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_BLOB_BYTES", 5000)
    with Ledger(path) as ledger:
        run, _ = planned(ledger)
        with pytest.raises(LedgerError, match="smaller batch size"):
            ledger.freeze_block(run.id, "features.0", 4, 400, make_rows(400), tiles(400), now=3.0)


# Damage


def damage(ledger, table, column):
    with ledger._database.write() as connection:
        found = bytes(connection.execute(text(f"SELECT {column} FROM {table}")).scalar())
        wrong = found[:-1] + bytes([found[-1] ^ 1]) if found else b"x"
        connection.execute(text(f"UPDATE {table} SET {column} = :wrong"), {"wrong": wrong})


def test_a_damaged_result(place):
    with Ledger(place) as ledger:
        run, block = planned(ledger)
        chunk = block.chunks[0]
        store(ledger, posted(ledger, chunk), chunk)
        damage(ledger, "ledger_results", "arrays")
        with pytest.raises(
            LedgerCorruptError,
            match=rf"run 'digits', layer 'features.0', chunk {chunk.id} \(job job-0\) is",
        ):
            ledger.results(ledger.state(run.id).all_chunks)
        assert len(ledger.state(run.id).all_blocks) == 1


def test_damaged_frozen_rows_and_circuits(place):
    with Ledger(place) as ledger:
        run, block = planned(ledger)
        damage(ledger, "ledger_blocks", "arrays")
        first, last = block.chunks[0].id, block.chunks[-1].id
        with pytest.raises(
            LedgerCorruptError,
            match=rf"Run 'digits', layer 'features.0', .*0 to 4 \(chunks {first} to {last}\):",
        ):
            ledger.rows(ledger.state(run.id).all_blocks)
        damage(ledger, "ledger_revision_blobs", "content")
        with pytest.raises(LedgerCorruptError, match="Run 'digits', revision 1, 'template'"):
            ledger.blob(run.id, 1, "template")


def test_bytes_that_are_no_arrays():
    content = b"something else"
    with pytest.raises(LedgerCorruptError, match="it cannot be read from the ledger"):
        documents.from_npz(content, documents.digest(content), "it")


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.savez(tmp_path / "x.npz", evs=np.array([{}], dtype=object))
    content = (tmp_path / "x.npz").read_bytes()
    with pytest.raises(LedgerCorruptError, match="cannot be read"):
        documents.from_npz(content, documents.digest(content), "it")


def test_nothing_is_pickled_or_evaluated():
    folder = Path(hardware_runs.__file__).parent
    files = [*(folder / "ledger").glob("*.py"), *(folder / "migrations").rglob("*.py")]
    assert len(files) > 15
    for file in files:
        tree = ast.parse(file.read_text())
        names = {getattr(n, "id", getattr(n, "attr", None)) for n in ast.walk(tree)}
        assert not names & {"pickle", "eval", "exec", "dill", "PickleType", "token", "api_key"}
        if "np.load" in file.read_text():
            assert "allow_pickle=False" in file.read_text()


# Versions


def test_the_migrations_make_the_schema(place):
    with Ledger(place) as ledger, ledger._database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"version_table": schema.VERSION_TABLE, "compare_type": True},
        )
        assert compare_metadata(context, schema.metadata) == []


def test_a_newer_version(place):
    with Ledger(place) as ledger:
        planned(ledger)
        with ledger._database.write() as connection:
            connection.execute(text("UPDATE ledger_version SET version_num = '9999'"))
        message = r"has version '9999', this program knows up to '0002'.*Nothing was changed"
        with pytest.raises(LedgerVersionError, match=message):  # upgraded while it was open
            ledger.create_run("other", {}, now=1.0)
        with pytest.raises(LedgerVersionError, match=message):
            ledger.list_runs()
        with pytest.raises(LedgerVersionError, match=message) as caught:
            Ledger(place)
        assert ledger.name in str(caught.value)


@pytest.fixture
def newer(tmp_path):
    """Migrations of a program that is one version ahead."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "v0003.py").write_text(
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        "revision, down_revision = '0003', '0002'\n"
        "def upgrade():\n"
        "    op.add_column('ledger_runs', sa.Column('note', sa.Text()))\n"
        "    op.execute(\"UPDATE ledger_runs SET note = 'old'\")\n"
    )
    return folder


def test_an_older_version_is_upgraded(place, newer):
    with Ledger(place) as ledger:
        planned(ledger)
    database = Database(place)
    assert upgrade(database, newer) == "0003"
    assert upgrade(database, newer) == "0003"
    with database.read() as connection:
        assert connection.execute(text("SELECT name, note FROM ledger_runs")).one() == (
            "digits",
            "old",
        )
    database.close()
    with pytest.raises(LedgerVersionError, match="'0003', this program knows up to '0002'"):
        Ledger(place)


def test_an_upgrade_is_whole_or_not_at_all(place, newer):
    with Ledger(place) as ledger:
        planned(ledger)
    script = newer / "versions" / "v0003.py"
    script.write_text(script.read_text() + "    raise RuntimeError('power failure')\n")
    database = Database(place)
    with pytest.raises(RuntimeError, match="power failure"):
        upgrade(database, newer)
    database.close()
    with Ledger(place) as ledger, ledger._database.read() as connection:
        assert "note" not in connection.execute(text("SELECT * FROM ledger_runs")).one()._mapping


def test_an_installation_without_migrations(path, tmp_path):
    (tmp_path / "none" / "versions").mkdir(parents=True)
    with pytest.raises(LedgerError, match="No migrations were found"):
        upgrade(Database(path), tmp_path / "none")


def test_migrations_are_package_data():
    """Every Python file and template that alembic needs is in a package."""
    assert {p.name for p in MIGRATIONS.iterdir()} >= {"__init__.py", "env.py", "script.py.mako"}
    project = (Path(hardware_runs.__file__).parents[1] / "pyproject.toml").read_text()
    assert '"hardware_runs*"' in project
    assert (MIGRATIONS / "versions" / "__init__.py").exists()
    assert '"hardware_runs.migrations" = ["script.py.mako"]' in project


# PostgreSQL, and errors of drivers


def test_a_server_that_is_not_there():
    url = "postgresql://someone:hunter2@127.0.0.1:1/nothing?connect_timeout=2"
    with pytest.raises(
        LedgerError, match=r"postgresql://127.0.0.1:1/nothing: its server"
    ) as caught:
        Ledger(url)
    error = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__


@pytest.mark.skipif(not POSTGRES, reason=NO_POSTGRES)
def test_a_lock_on_the_server_that_is_held_for_too_long(monkeypatch):
    monkeypatch.setattr("hardware_runs.ledger.database.BUSY_SECONDS", 0.2)
    with postgres_schema("qpc_test_busy") as url, Ledger(url) as ledger, Ledger(url) as other:
        run, block = planned(ledger)
        with ledger._writing(run.id), pytest.raises(LedgerBusyError, match="kept it locked"):
            claimed(other, block.chunks[0])
        assert claimed(other, block.chunks[0]).number == 1


@pytest.mark.skipif(not POSTGRES, reason=NO_POSTGRES)
def test_a_connection_to_the_server_that_is_lost():
    with postgres_schema("qpc_test_lost") as url, Ledger(url) as ledger:
        run, block = planned(ledger)
        with pytest.raises(LedgerError, match="its server cannot be reached, or the conn"):  # noqa: PT012, SIM117
            with ledger._writing(run.id) as connection:
                pid = connection.scalar(text("SELECT pg_backend_pid()"))
                with Ledger(url) as other, other._database.write() as killer:
                    killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
                connection.execute(text("SELECT 1"))
        assert claimed(ledger, block.chunks[0]).number == 1


@pytest.mark.skipif(not POSTGRES, reason=NO_POSTGRES)
def test_what_is_committed_is_on_the_servers_disk():
    with postgres_schema("qpc_test_sync") as url:
        lax = make_url(url)
        options = f"{lax.query['options']} -csynchronous_commit=off"
        lax = lax.update_query_dict({"options": options}).render_as_string(hide_password=False)
        with Ledger(lax) as ledger, ledger._database.write() as connection:
            assert connection.scalar(text("SHOW synchronous_commit")) == "on"
            assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"
        with Ledger(lax) as ledger, ledger._database.read() as connection:
            assert connection.scalar(text("SHOW transaction_isolation")) == "repeatable read"
            with pytest.raises(DBAPIError, match="read-only"):
                connection.execute(text("DELETE FROM ledger_runs"))


class FromDriver(Exception):
    def __init__(self, message="it failed", **codes):
        super().__init__(message)
        self.__dict__.update(codes)


@pytest.mark.parametrize(
    ("original", "kind", "message"),
    [
        (FromDriver(sqlstate="53100"), LedgerError, "the disk is full"),
        (FromDriver(sqlstate="25006"), LedgerError, "cannot be written to"),
        (FromDriver(sqlstate="40001"), LedgerBusyError, "kept it locked"),
        (FromDriver(sqlstate="23505"), LedgerConflictError, "excludes this step"),
        (FromDriver(sqlstate="57P01"), LedgerError, "server cannot be reached"),
        (FromDriver(sqlstate="XX000"), LedgerError, "the database failed"),
        (FromDriver(sqlite_errorcode=sqlite3.SQLITE_IOERR_READ), LedgerError, "file system failed"),
        (FromDriver(sqlite_errorcode=1), LedgerError, "the database failed"),
        (FromDriver(sqlite_errorcode=sqlite3.SQLITE_TOOBIG), LedgerError, "smaller batch size"),
        (sqlite3.ProgrammingError("closed"), LedgerError, "the database failed"),
    ],
)
def test_failures_say_what_to_do(original, kind, message):
    error = IntegrityError("SELECT", {}, original)
    found = ledger_error("place", error)
    assert re.match(f"Ledger place: .*{message}", str(found))
    assert type(found) is kind


def test_failures_of_the_layer_above():
    found = ledger_error("place", InvalidRequestError("closed"))
    assert "the database layer failed" in str(found)


def test_psycopg_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"pip install 'qpc-qiskit\[postgres\]'"):
        Ledger("postgresql://nobody@127.0.0.1:1/x")


def test_a_fork_makes_its_own_connections(place, monkeypatch):
    with Ledger(place) as ledger:
        run, block = planned(ledger)
        disposed = []
        monkeypatch.setattr(
            ledger._database.engine, "dispose", lambda close=True: disposed.append(close)
        )
        monkeypatch.setattr("hardware_runs.ledger.database.os.getpid", lambda: 1)
        claimed(ledger, block.chunks[0])
        assert ledger.renew_lease(
            ledger.state(run.id).attempts()[0], "A", now=11.0, lease_seconds=LEASE
        )
        assert disposed == [False]
        monkeypatch.undo()
