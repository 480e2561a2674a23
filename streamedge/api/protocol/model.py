"""Finds CloudFront's operation for the method, path and query of a request.

The operations and their shapes come from botocore's service model of 2020-05-31, which boto3 and
awscli use. It is read from the installed package at the first request, so a process without API
requests does not load it.

A request URI of the model is a path with names in braces and, for some operations, a query that
marks them: ``/2020-05-31/distribution?WithTags``, ``/2020-05-31/tagging?Operation=Tag``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel

from streamedge.api.protocol.service import API_VERSION


@dataclass(frozen=True, slots=True)
class OperationMatch:
    """An operation, and the values of the names in braces in its path."""

    operation: OperationModel
    path_parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Template:
    """One operation's request URI.

    ``{Name}`` segments match any text; all ``markers`` must be in the query.
    """

    segments: tuple[str, ...]
    markers: frozenset[tuple[str, str]]
    operation_name: str

    def parameters(self, segments: tuple[str, ...]) -> dict[str, str] | None:
        """The values of the names in braces; None if the path does not match."""
        values = {}
        for pattern, segment in zip(self.segments, segments, strict=True):
            if pattern.startswith("{"):
                if not segment:
                    return None
                values[pattern[1:-1]] = segment
            elif pattern != segment:
                return None
        return values

    @property
    def rank(self) -> tuple[int, int]:
        """The sort key: more specific templates are tried first."""
        literal = sum(not segment.startswith("{") for segment in self.segments)
        return -len(self.markers), -literal


class Model:
    """The operations of one service model."""

    def __init__(self, service: ServiceModel) -> None:
        self._service = service

    def operation(self, name: str) -> OperationModel:
        """The operation of a name. Raises botocore's OperationNotFoundError."""
        return self._service.operation_model(name)

    def find(
        self, method: str, segments: tuple[str, ...], query: Mapping[str, str]
    ) -> OperationMatch | None:
        """The operation of a request; None if CloudFront has no such operation.

        ``segments`` are the decoded parts of the path between slashes; ``query`` is decoded too.
        """
        parameters_sent = frozenset(query.items())
        for template in self._templates.get((method, len(segments)), ()):
            if template.markers <= parameters_sent:
                parameters = template.parameters(segments)
                if parameters is not None:
                    return OperationMatch(self.operation(template.operation_name), parameters)
        return None

    @cached_property
    def _templates(self) -> dict[tuple[str, int], list[_Template]]:
        templates: dict[tuple[str, int], list[_Template]] = {}
        for name in self._service.operation_names:
            http = self._service.operation_model(name).http
            path, _, markers = http["requestUri"].partition("?")
            segments = tuple(path.strip("/").split("/"))
            required = frozenset(parse_qsl(markers, keep_blank_values=True))
            template = _Template(segments, required, name)
            templates.setdefault((http["method"], len(segments)), []).append(template)
        for candidates in templates.values():
            candidates.sort(key=lambda template: template.rank)
        return templates


_load_lock = threading.Lock()
_models: list[Model] = []


def cloudfront() -> Model:
    """The model, read from the disk (about 50 ms) at the first call; safe in any thread."""
    with _load_lock:
        if not _models:
            # Not the models under ~/.aws/models: only the installed one is supported.
            loader = Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
            description = loader.load_service_model("cloudfront", "service-2", API_VERSION)
            _models.append(Model(ServiceModel(description, "cloudfront")))
        return _models[0]
