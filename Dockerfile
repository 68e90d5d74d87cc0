# fewstep on NVIDIA GPUs with the versions that its tests run with. Written without a machine to build it on: not built yet.
#   docker build --tag fewstep .
#   docker run --gpus all --shm-size 8g --volume "$PWD/runs:/work/runs" fewstep run shapes-demo
# The host needs the NVIDIA driver and container toolkit; CUDA's libraries come with torch's wheels.
FROM python:3.11-slim

# torch.compile builds its kernels with a C compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[quant,nf4,gguf,onnx]'

WORKDIR /work
ENTRYPOINT ["fewstep"]
CMD ["--help"]
