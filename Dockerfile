# The operator and its workers in one image: `pyncette operator` or `pyncette worker MODULE`, as any user.
#
#   docker build -t pyncette-operator .
#
# What is in it is pinned by hash in requirements/. Images of yours begin FROM it: see examples/kubernetes.
#
# checkov:skip=CKV_DOCKER_7: BASE has a tag, and a release names its digest. checkov does not resolve the argument.
# checkov:skip=CKV_DOCKER_2: Kubernetes ignores HEALTHCHECK. The pods have probes, which differ for operator and worker.

ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Wheels only: no dependency needs a compiler, nor may run code of its own while it is installed.
COPY requirements/runtime.txt /requirements/
RUN python -m venv --without-pip /opt/pyncette \
 && python -m pip --python /opt/pyncette/bin/python install --quiet --no-compile --require-hashes --only-binary=:all: -r /requirements/runtime.txt

COPY requirements/build.txt /requirements/
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --quiet --require-hashes --only-binary=:all: -r /requirements/build.txt

COPY pyproject.toml README.md LICENSE /source/
COPY operator /source/operator
RUN /opt/build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir /wheel /source \
 && python -m pip --python /opt/pyncette/bin/python install --quiet --no-compile --no-deps --no-index /wheel/*.whl

# Sources of C extensions go. Bytecode is made here, since a root that is read-only takes none later, and such that it is
# right whatever happens to the times of files.
RUN find /opt/pyncette/lib -name '*.[ch]' -delete -o -name '*.p[xy][xdi]' ! -name '*.pyi' -delete \
 && /opt/pyncette/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/pyncette/lib


FROM ${BASE}
ARG VERSION=unreleased
# What the image is made from, for scanners and for those who build it again. A release gives the digest: see CONTRIBUTING.md.
ARG BASE
ARG BASE_DIGEST=
LABEL org.opencontainers.image.title="pyncette-operator" \
      org.opencontainers.image.description="Cron for Python functions: the operator and its workers" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"

# Nothing is installed into a running worker: what a handler needs is in its image (see examples/kubernetes/README.md).
RUN python -Bc "import ensurepip, glob, pip, shutil; [shutil.rmtree(path) for module in (pip, ensurepip) for path in glob.glob(module.__path__[0] + '*')]" \
 && rm -f /usr/local/bin/pip* /usr/bin/pip* \
 && echo 'pyncette:x:65532:65532::/nonexistent:/usr/sbin/nologin' >>/etc/passwd \
 && echo 'pyncette:x:65532:' >>/etc/group
COPY LICENSE /usr/share/doc/pyncette-operator/
COPY --from=build /opt/pyncette /opt/pyncette
# Keeps the bytecode of what is used of the standard library, too, which the base comes without.
RUN /opt/pyncette/bin/python -c "import pyncette.cli.commands, pyncette.cli.worker, aioboto3, asyncmy, asyncpg, kopf, kubernetes_asyncio, redis"

# USER and HOME, for a user whom /etc/passwd does not know: some libraries ask for both.
ENV PATH=/opt/pyncette/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    USER=pyncette HOME=/nonexistent
# Where `pyncette worker tasks` looks for tasks.py.
WORKDIR /app
USER 65532:65532
ENTRYPOINT ["pyncette"]
