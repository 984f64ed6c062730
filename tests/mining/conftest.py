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
