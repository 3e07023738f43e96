# The service in a container; docs/serve.md tells how to run it.
#   docker build -t captioner .                              onnxruntime only: models that have graphs
#   docker build -t captioner --build-arg BACKEND=torch .    PyTorch for CPUs too: all models and options
ARG PYTHON=3.13
ARG BACKEND=onnx

FROM python:${PYTHON}-slim AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv --without-pip /opt/captioner
# The packages change less often than the code, so they are a layer of their own.
COPY requirements-caption.txt ./
RUN pip --python /opt/captioner install -r requirements-caption.txt \
    'fastapi>=0.115' 'uvicorn>=0.34' 'python-multipart>=0.0.18' 'prometheus-client>=0.21'

FROM packages AS onnx
COPY . .
RUN pip --python /opt/captioner install --no-deps .

FROM packages AS torch
# Those of PyPI hold CUDA, which takes gigabytes.
RUN pip --python /opt/captioner install --index-url https://download.pytorch.org/whl/cpu \
    'torch>=2.6' 'torchvision>=0.21'
COPY . .
RUN pip --python /opt/captioner install '.[serve]'

# The stage onnx or torch; the other one is not built.
FROM ${BACKEND} AS installed

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin captioner
COPY --from=installed /opt/captioner /opt/captioner
ENV PATH=/opt/captioner/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# The number, as Kubernetes sees only from a number that it is not root.
USER 10001:10001
EXPOSE 8000
# /ready, not /health: a container is healthy when it captions. A proxy of the host is not asked.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import *; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/ready', timeout=5)"]
ENTRYPOINT ["captioner"]
CMD ["serve", "--host", "0.0.0.0"]
