"""LitServe."""

import litserve

from bench.peer.session import HOST, MAX_BATCH_SIZE, PORT, Session


class Onnx(litserve.LitAPI):
    """The model."""

    def setup(self, device):
        """Open the file."""
        self._session = Session()

    def decode_request(self, request):
        """The sample of a request."""
        return request["x"]

    def batch(self, inputs):
        """Leave it to the session to put samples together."""
        return inputs

    def predict(self, x):
        """Answer a batch."""
        return self._session(x)

    def unbatch(self, output):
        """Take the answers apart."""
        return output

    def encode_response(self, output):
        """The answer to a request."""
        return {"scores": output.tolist()}


if __name__ == "__main__":
    api = Onnx(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host=HOST, port=PORT, num_api_servers=1, log_level="warning", generate_client_file=False)
