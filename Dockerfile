# docker build --tag twinloop .
# docker run --rm --volume "$PWD/lightning_logs:/twinloop/lightning_logs" twinloop make train-ae
FROM python:3.13-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /twinloop
COPY requirements.lock ./
RUN python -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY . ./
# The Makefile installs nothing while .venv/installed is newer than the files that it depends on.
RUN .venv/bin/python -m pip install --no-cache-dir --no-deps --editable . && touch .venv/installed
CMD ["make"]
