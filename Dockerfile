# syntax=docker/dockerfile:1
# Targets: worker, emerging, triton, training. Written for a builder with a network; not built on the machine that it was written on.
#   docker build --target worker -t proguard-stream-worker .

ARG PYTHON=3.11-slim-bookworm
# NVIDIA's Triton with TensorRT-LLM 1.2.1 (Triton 2.71, CUDA 13.1): the `tensorrt` extra of pyproject.toml is inside it.
ARG TRITON=26.07-trtllm-python-py3

FROM python:${PYTHON} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/proguard/bin:$PATH
RUN useradd --uid 10001 --create-home proguard
WORKDIR /app

FROM base AS build
COPY locks/uv.txt locks/
RUN pip install --no-cache-dir --require-hashes -r locks/uv.txt
COPY . .

FROM build AS build-worker
RUN uv venv /opt/proguard && uv pip sync --python /opt/proguard/bin/python --require-hashes locks/worker.txt \
 && uv pip install --python /opt/proguard/bin/python --no-deps --build-constraints locks/build.txt .

FROM build AS build-emerging
RUN uv venv /opt/proguard && uv pip sync --python /opt/proguard/bin/python --require-hashes locks/emerging.txt \
 && uv pip install --python /opt/proguard/bin/python --no-deps --build-constraints locks/build.txt .

FROM build AS build-training
RUN uv venv /opt/proguard && uv pip sync --python /opt/proguard/bin/python --require-hashes locks/training.txt \
 && uv pip install --python /opt/proguard/bin/python --no-deps --build-constraints locks/build.txt .

FROM base AS worker
COPY --from=build-worker /opt/proguard /opt/proguard
USER 10001
ENV PROGUARD_HEALTH__HOST=0.0.0.0
EXPOSE 8080
# SIGTERM drains: give the pod longer than delivery.drain_s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["proguard-stream"]
CMD ["worker"]

FROM base AS emerging
COPY --from=build-emerging /opt/proguard /opt/proguard
USER 10001
ENTRYPOINT ["proguard-stream"]

FROM base AS training
COPY --from=build-training /opt/proguard /opt/proguard
USER 10001
ENTRYPOINT ["python", "-m"]

# The embedded guard needs numpy < 2 and ONNX Runtime in an environment of its own, next to what the image has.
# GUARD=proguard serves the real guard instead, with TensorRT-LLM and the LLM arguments of a preset (triton_models/proguard/presets):
#   docker build --target triton --build-arg GUARD=proguard --build-arg PRESET=h100-7b .
# It needs a GPU, --shm-size of a gigabyte, and PROGUARD_MODEL_CHECKPOINT with the folder of a sealed checkpoint.
FROM nvcr.io/nvidia/tritonserver:${TRITON} AS triton
ARG GUARD=proguard_lite
ARG PRESET=h100-7b
COPY locks/uv.txt locks/triton.txt /tmp/locks/
RUN pip install --no-cache-dir --require-hashes -r /tmp/locks/uv.txt \
 && uv venv --system-site-packages /opt/lite && uv pip install --python /opt/lite/bin/python --require-hashes -r /tmp/locks/triton.txt
COPY triton_models /models
RUN cp "/models/proguard/presets/${PRESET}.yaml" /models/proguard/1/model.yaml
ENV GUARD=${GUARD}
EXPOSE 8000 8001 8002
# Weights of 16 GB take minutes to hash and load: the stub may not be given up before. `exec` lets SIGTERM reach the server.
CMD ["sh", "-c", "exec tritonserver --model-repository=/models --model-control-mode=explicit --load-model=$GUARD --disable-auto-complete-config --backend-config=python,stub-timeout-seconds=1800"]
