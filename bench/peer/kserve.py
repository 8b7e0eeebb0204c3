"""KServe's Python server."""

import logging

from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid

from bench.peer.session import HOST, PORT, Session


class Onnx(Model):
    """The model."""

    def load(self):
        """Open the file."""
        self._session = Session()
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        """Answer one request."""
        scores = self._session(payload.inputs[0].as_numpy())
        output = InferOutput(name=self._session.output, shape=list(scores.shape), datatype="FP32")
        output.set_data_from_numpy(scores, binary_data=False)
        return InferResponse(response_id=payload.id or generate_uuid(), model_name=self.name, infer_outputs=[output])


class Server(ModelServer):
    """Listens on this machine only and logs no requests: there are no settings for either."""

    async def _serve(self):
        self._rest_server.config.host = HOST
        access = logging.getLogger("uvicorn.access")
        access.handlers, access.propagate = [], False
        await super()._serve()


if __name__ == "__main__":
    model = Onnx("model")
    model.load()
    Server(http_port=PORT, enable_grpc=False, enable_latency_logging=False, workers=1).start([model])
