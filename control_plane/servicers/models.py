"""ModelsService."""

# ruff: noqa: N802  # the names are gRPC's
from __future__ import annotations

from typing import Any

from control_plane.codec import content, model_message
from control_plane.domain.release import Model
from control_plane.models import Models
from control_plane.requests import Asked
from control_plane.servicers.paging import number_place, page_size, token_of
from control_plane.store.port import Store
from maskfleet.v1 import models_service_pb2 as wire
from maskfleet.v1 import models_service_pb2_grpc


class ModelsServicer(models_service_pb2_grpc.ModelsServiceServicer):
    """Model versions."""

    def __init__(self, models: Models, store: Store) -> None:
        self._models = models
        self._store = store

    async def CreateModel(self, request: wire.CreateModelRequest, context: Any) -> wire.CreateModelResponse:
        asked = Asked.of(request.request_id, "CreateModel", content(request))
        model = await self._models.create(
            asked, request.name, request.decoder, request.artifact_digest, request.description
        )
        return wire.CreateModelResponse(model=model_message(model))

    async def ListModels(self, request: wire.ListModelsRequest, context: Any) -> wire.ListModelsResponse:
        size = page_size(request.page_size)
        async with self._store.reading() as look:
            where = {"name": request.name} if request.name else None
            after = number_place(request.page_token)
            found = await look.select(Model, where, after=after, limit=size + 1, descending=True)
        token = token_of(found[size - 1].number) if len(found) > size else ""
        return wire.ListModelsResponse(models=[model_message(m) for m in found[:size]], next_page_token=token)

    async def GetModel(self, request: wire.GetModelRequest, context: Any) -> wire.GetModelResponse:
        return wire.GetModelResponse(model=model_message(await self._models.find(request.model)))
