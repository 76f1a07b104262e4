"""Finds the API server and the credentials for it: those of a pod, or of a kubeconfig."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from kubernetes_asyncio.client.configuration import Configuration
from kubernetes_asyncio.config.config_exception import ConfigException
from kubernetes_asyncio.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    load_incluster_config,
)
from kubernetes_asyncio.config.kube_config import load_kube_config

from pyncette.errors import ConfigurationError

KUBECONFIG_VARIABLE: Final = "KUBECONFIG"
USUAL_KUBECONFIG: Final = "~/.kube/config"


class Credentials(NamedTuple):
    """
    How to log in. It holds no secret, but says where they are: they change while we run, and are read when needed.

    A kubeconfig that is named, or that the environment names, goes before the service account of a pod; without both, it
    is the kubeconfig at its usual place.
    """

    kubeconfig: str | None = None
    token_file: str = SERVICE_TOKEN_FILENAME
    authority_file: str = SERVICE_CERT_FILENAME

    def is_in_cluster(self) -> bool:
        """Return whether they are those of a pod, whose token is replaced every hour."""
        return self._kubeconfig() is None and bool(os.environ.get(SERVICE_HOST_ENV_NAME))

    async def read(self) -> Configuration:
        """Read them again. Raises ConfigurationError if there are none, or if they are invalid."""
        configuration = Configuration()
        try:
            if self.is_in_cluster():
                load_incluster_config(  # type: ignore[no-untyped-call]
                    configuration,
                    # The hook of the library keeps what it read to itself, and for as long as it likes.
                    try_refresh_token=False,
                    token_filename=self.token_file,
                    cert_filename=self.authority_file,
                )
            else:
                await load_kube_config(
                    self._kubeconfig() or USUAL_KUBECONFIG,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (ConfigException, OSError, AssertionError, TypeError, KeyError) as error:
            # The library asserts and indexes keys that a file may lack.
            where = "the pod" if self.is_in_cluster() else self._kubeconfig() or USUAL_KUBECONFIG
            raise ConfigurationError(
                f"no credentials for the API server in {where}: {str(error) or type(error).__name__}"
            ) from error
        return configuration

    def _kubeconfig(self) -> str | None:
        return self.kubeconfig or os.environ.get(KUBECONFIG_VARIABLE)


def authorization_of(configuration: Configuration) -> str | None:
    """Return the value of the Authorization header; None if client certificates are used."""
    value = configuration.api_key.get("BearerToken")
    return None if value is None else value.strip()
