"""A vLLM server's answers, as its protocol writes them (0.32), and what may be wrong with them."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from prompt_distillation.errors import EngineError
from prompt_distillation.training.teacher_server import Listed, TeacherServer


class Handler(BaseHTTPRequestHandler):
    scores = True

    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": "teacher", "max_model_len": 4096}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["prompt_logprobs"] == 20
        assert asked["max_tokens"] == 1
        listed = [
            {str(t): {"logprob": -0.5, "rank": 1}, "9": {"logprob": -2.0}} for t in asked["prompt"]
        ]
        choice = {"index": 0, "text": "x", "finish_reason": "length"}
        if self.scores:
            choice["prompt_logprobs"] = [None, *listed[1:]]
        self.answer({"id": "1", "object": "text_completion", "choices": [choice]})

    def answer(self, body):
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_each_token_of_an_answer_is_scored_after_its_context(url):
    server = TeacherServer(url, "teacher")
    assert server.max_length == 4096
    views = server.score([[1, 2, 3], [1]], [[4, 5], [6]])
    server.close()
    assert views == [
        [Listed([4, 9], [-0.5, -2.0]), Listed([5, 9], [-0.5, -2.0])],
        [Listed([6, 9], [-0.5, -2.0])],
    ]


def test_a_server_that_does_not_score_is_named(url, monkeypatch):
    monkeypatch.setattr(Handler, "scores", False)
    server = TeacherServer(url, "teacher")
    with pytest.raises(EngineError, match="gave no prompt_logprobs"):
        server.score([[1]], [[2]])
    server.close()


def test_another_model_or_no_server_is_an_error_at_once(url):
    with pytest.raises(EngineError, match="does not serve 'other'; it serves teacher"):
        TeacherServer(url, "other")
    with pytest.raises(EngineError, match="no teacher at --teacher_server_url http"):
        TeacherServer("http://127.0.0.1:9/v1", "teacher")
