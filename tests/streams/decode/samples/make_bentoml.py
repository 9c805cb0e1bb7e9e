"""Makes `bentoml-VERSION.binpb`: what BentoML's own OTLP monitor sends, caught on the way. Run it where `bentoml` and OpenTelemetry's OTLP
exporters (HTTP and gRPC) are installed; they do not go together with the rest of the test extra: `python make_bentoml.py OUT`."""

from __future__ import annotations

import gzip
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

caught: list[bytes] = []


class Collector(BaseHTTPRequestHandler):
    """Takes in what is posted."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        caught.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main(out: str) -> None:
    """Two inferences with a number and a category as features, a prediction and a target."""
    from bentoml._internal.monitoring.otlp import OTLPMonitor

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monitor = OTLPMonitor("iris_classifier_prediction", endpoint=f"http://127.0.0.1:{server.server_port}/v1/logs")
    for length, label in ((4.9, "setosa"), (6.5, "virginica")):
        monitor.start_record()
        monitor.log(length, name="sepal length", role="feature", data_type="numerical")
        monitor.log("eu", name="region", role="feature", data_type="categorical")
        monitor.log(label, name="pred", role="prediction", data_type="categorical")
        monitor.log(label, name="truth", role="target", data_type="categorical")
        monitor.stop_record()
    monitor.logger_provider.force_flush()
    with open(out, "wb") as file:
        file.write(b"".join(caught))


if __name__ == "__main__":
    main(sys.argv[1])
