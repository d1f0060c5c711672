"""Remote functions: values, environment, mutation by reference, map, exceptions."""
import cwsandbox
import pytest
from cwsandbox import SandboxDefaults, Session

DEFAULTS = SandboxDefaults(environment_variables={"PROJECT_ID": "my-project", "LOG_LEVEL": "info"})
FACTOR = 3


@pytest.fixture()
def session(daemon):
    with Session(DEFAULTS) as s:
        yield s


def test_values_and_environment(session):
    @session.function(environment_variables={"MODEL_VERSION": "v2.0"})
    def process(task_id: int) -> dict:
        import os

        return {"task": task_id, "project": os.environ.get("PROJECT_ID"), "version": os.environ.get("MODEL_VERSION")}

    assert process.remote(42).result() == {"task": 42, "project": "my-project", "version": "v2.0"}


def test_a_mutated_dictionary_is_seen_by_the_next_call(session):
    env = {"MODEL_VERSION": "v2.0"}

    @session.function(environment_variables=env)
    def version() -> str:
        import os

        return os.environ["MODEL_VERSION"]

    assert version.remote().result() == "v2.0"
    env["MODEL_VERSION"] = "v3.0"
    assert version.remote().result() == "v3.0"


def test_globals_and_closures_travel(session):
    offset = 10

    @session.function()
    def compute(x):
        return x * FACTOR + offset

    assert compute.remote(4).result() == 22


def test_map(session):
    @session.function()
    def square(x):
        return x * x

    refs = square.map([(i,) for i in range(6)])
    assert [r.result() for r in refs] == [0, 1, 4, 9, 16, 25]


def test_an_exception_carries_its_traceback(session):
    @session.function()
    def broken():
        raise ValueError("the reason")

    with pytest.raises(cwsandbox.SandboxExecutionError) as e:
        broken.remote().result()
    assert "the reason" in str(e.value) or "the reason" in e.value.exec_result.stderr


def test_a_temporary_directory_that_does_not_exist_yet(session):
    @session.function(temp_dir="/srv/made/for/this")
    def where():
        import os

        return sorted(os.listdir("/srv/made/for/this"))

    assert where.remote().result()
