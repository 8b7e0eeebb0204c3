"""MLServer: no worker processes beside the server's, which for a model of microseconds only add a hop."""

import asyncio

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

from bench.peer.session import HOST, MAX_BATCH_SIZE, PORT, Session


class Onnx(MLModel):
    """The model."""

    async def load(self):
        """Open the file."""
        self._session = Session()
        return True

    async def predict(self, payload):
        """Answer a batch that MLServer put together."""
        scores = self._session(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output(self._session.output, scores)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main():
    """Serve until told to stop."""
    ports = {"http_port": PORT, "grpc_port": PORT + 1, "metrics_port": PORT + 2}
    batching = {"max_batch_size": MAX_BATCH_SIZE, "max_batch_time": 0.001}
    server = MLServer(Settings(debug=False, host=HOST, parallel_workers=0, **ports))
    await server.start([ModelSettings(name="model", implementation=Onnx, **batching)])


if __name__ == "__main__":
    asyncio.run(main())
