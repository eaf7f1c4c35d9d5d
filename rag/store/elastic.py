"""The index on a server: Elasticsearch 8, one index per place behind an alias."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np

from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock
from rag.core.errors import InvalidInput, StoreError
from rag.core.settings import IndexSettings
from rag.core.types import Matrix, Vector
from rag.store.base import NOTHING_FOUND, Candidates, Entry, EntryKey, Place, PlaceStats, Sample, SearchQuery, Selector
from rag.store.elastic_bulk import BulkWriter
from rag.store.elastic_client import LINES, ElasticConnection
from rag.store.elastic_errors import IndexAbsent, Outdated, of_reply
from rag.store.elastic_mapping import Layout, delete_lines, index_lines
from rag.store.elastic_query import (
    candidates_of,
    delete_body,
    encoded,
    finds_nothing,
    is_long,
    key_of,
    matrix_of,
    sample_body,
    search_body,
    selector_clause,
)

_ENCODE_AT_ONCE = 500
_SAMPLE_AT_ONCE = 1_000
_SEGMENTS = 4
"""Each part of the vector index is searched by itself: few are fast, and making one of all writes everything anew."""
_MERGE_S = 1_800.0
_ALREADY = "resource_already_exists_exception"


class ElasticStore:
    """SearchStore on Elasticsearch. Opening waits for no server; the first use checks its version and the mapping.

    Args:
        settings: Address, login, deadline and layout.
        clock: Bounds the patience of writes.
        sample_size: Entries in a sample.
        watched: Whether the caller looks at the server with `check` every second or two. Once it is found away, all
            other calls then fail at once until `check` reaches it.
    """

    def __init__(
        self, settings: IndexSettings, *, clock: Clock, sample_size: int = 1000, watched: bool = False
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._sample_size = sample_size
        self._connection = ElasticConnection(settings, watched=watched)
        self._bulk = BulkWriter(self._connection, clock, patience_s=settings.timeout_s)
        self._layout: Layout | None = None
        self._known: dict[str, tuple[int, str]] = {}

    async def open(self) -> None:
        """Import the driver; never waits for a server.

        Raises:
            InvalidInput: the settings cannot be used.
        """
        await self._connection.open()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._connection.close()
        self._known.clear()

    async def upsert(self, place: Place, entries: Sequence[Entry], *, visible: bool = True) -> None:
        for entry in entries:
            _check_dim(place, entry.vector)
        unique = list({entry.key: entry for entry in entries}.values())
        if not unique:
            if visible and await self._index_of(place) is not None:
                await self._refresh(place)
            return
        layout = await self._laid_out()
        if await self._index_of(place) is None:
            await self._create(place)
        lines: list[bytes] = []
        for start in range(0, len(unique), _ENCODE_AT_ONCE):
            lines += await run_in(Lane.INDEX, index_lines, place, unique[start : start + _ENCODE_AT_ONCE])
        try:
            await self._bulk.write(layout.alias(place), lines)
        except IndexAbsent:
            # Another process dropped the place a moment ago; this write comes after that.
            self._known.pop(place.name, None)
            await self._create(place)
            await self._bulk.write(layout.alias(place), lines)
        if visible:
            await self._refresh(place)

    async def delete(self, place: Place, selector: Selector) -> None:
        clause = selector_clause(selector)
        if clause is not None and await self._index_of(place) is not None:
            await self._delete(place, clause)

    async def search(self, place: Place, query: SearchQuery) -> Candidates:
        if query.vector is not None:
            _check_dim(place, query.vector)
        if finds_nothing(query) or await self._index_of(place) is None:
            return NOTHING_FOUND
        alias = (await self._laid_out()).alias(place)
        build = partial(search_body, alias, query, spread=self._settings.shards > 1)
        body = await run_in(Lane.INDEX, build) if is_long(query.filter) else build()
        try:
            replies = await self._connection.when_ready(lambda: self._searches(body))
        except IndexAbsent:
            self._known.pop(place.name, None)
            return NOTHING_FOUND
        return await run_in(Lane.INDEX, candidates_of, query, replies, place.dim)

    async def view(self, place: Place) -> None:
        """None: the server has to be asked."""

    async def sample(self, place: Place, dataset_ids: tuple[str, ...]) -> Sample:
        tokens: list[str] = []
        vectors: list[Matrix] = [np.zeros((0, place.dim), dtype=np.float32)]
        total = 0
        after: list[Any] | None = None
        if not dataset_ids or await self._index_of(place) is None:
            return Sample(total=0, tokens=(), vectors=vectors[0])
        alias = (await self._laid_out()).alias(place)
        while len(tokens) < self._sample_size:
            size = min(self._sample_size - len(tokens), _SAMPLE_AT_ONCE)
            body = sample_body(dataset_ids, size=size, after=after)
            try:
                found = await self._connection.when_ready(partial(self._page, alias, "_search", body=body))
            except IndexAbsent:
                self._known.pop(place.name, None)
                break
            total = found["total"]["value"] if after is None else total
            tokens += [hit["_source"]["tokens"] for hit in found["hits"]]
            vectors.append(await run_in(Lane.INDEX, matrix_of, found["hits"], place.dim))
            if len(found["hits"]) < size:
                break
            after = found["hits"][-1]["sort"]
        return Sample(total=total, tokens=tuple(tokens), vectors=np.concatenate(vectors))

    async def optimise(self, place: Place) -> PlaceStats:
        """Elasticsearch compacts by itself; this makes its parts few, and what was written visible."""
        if await self._index_of(place) is None:
            return PlaceStats(entries=0, unindexed=0)
        alias = (await self._laid_out()).alias(place)
        try:
            await self._refresh(place)
            query = {"max_num_segments": str(_SEGMENTS)}
            await self._connection.slow_call("POST", alias, "_forcemerge", query=query, at_most_s=_MERGE_S)
            counted = await self._connection.call("GET", alias, "_count")
        except IndexAbsent:
            self._known.pop(place.name, None)
            return PlaceStats(entries=0, unindexed=0)
        return PlaceStats(entries=int(counted["count"]), unindexed=0)

    async def drop(self, place: Place) -> None:
        """Whatever the mapping is: an index that does not fit is left by a rebuild, and dropped at its end.

        Raises:
            StoreError: it was not made by Parley.
        """
        await self._connection.checked()
        found = await self._told_of(place)
        if found is None:
            return
        layout = await self._laid_out()
        index, told = found
        if fault := layout.foreign(index, told):
            raise StoreError(fault)
        self._known.pop(place.name, None)
        try:
            if layout.is_pool(index):
                await self._delete(place, {"match_all": {}})
                await self._connection.slow_call("POST", "_aliases", body=layout.leave_pool(place, index))
            else:
                await self._connection.slow_call("DELETE", index)
        except IndexAbsent:
            return

    async def check(self) -> str:
        """The server's name and version. An index of an older Parley is no hindrance: its searches alone fail, and
        `parley index rebuild` mends it.

        Raises:
            StoreUnavailable: it does not answer.
            StoreError: its version, the login or the mapping of an index does not fit; the message says what to do.
        """
        layout = await self._laid_out()
        # The second keeps an index without a mapping in the reply.
        query = {"filter_path": "*.mappings._meta,*.settings.index.uuid"}
        with self._connection.looking():
            version = await self._connection.version()
            found = await self._connection.call("GET", layout.pattern, query=query)
        for index, told in sorted(found.items()):
            if (fault := layout.fault(index, told, 0)) and not layout.outdated(told):
                raise StoreError(fault)
        return f"elasticsearch {version}"

    async def _laid_out(self) -> Layout:
        if self._layout is None:
            self._layout = await run_in(Lane.INDEX, Layout, self._settings)
        return self._layout

    async def _index_of(self, place: Place) -> str | None:
        """The index behind a place's alias, its mapping checked; None where the place was never written.

        Raises:
            Outdated: the mapping is an older Parley's.
            StoreError: version or mapping do not fit.
        """
        await self._connection.checked()
        known = self._known.get(place.name)
        if known is not None and (known[0] == place.dim or not place.dim):
            return known[1]
        found = await self._told_of(place)
        if found is None:
            return None
        layout = await self._laid_out()
        index, told = found
        if fault := layout.fault(index, told, place.dim):
            raise Outdated(fault) if layout.outdated(told) else StoreError(fault)
        if place.dim:
            self._known[place.name] = (place.dim, index)
        return index

    async def _told_of(self, place: Place) -> tuple[str, dict[str, Any]] | None:
        """The index behind a place's alias, and what the server tells of its mapping; None where there is none."""
        alias = (await self._laid_out()).alias(place)
        query = {"filter_path": "*.mappings._meta,*.mappings.properties.vector.dims"}
        try:
            found = await self._connection.call("GET", alias, "_mapping", query=query)
        except IndexAbsent:
            return None
        # An index without any mapping leaves nothing behind the filter.
        index = str(next(iter(found), alias))
        return index, found.get(index, {})

    async def _create(self, place: Place) -> None:
        layout = await self._laid_out()
        try:
            await self._connection.slow_call("PUT", layout.index(place), body=layout.create(place))
        except StoreError as error:
            # Another process made it in the meantime.
            if _ALREADY not in error.message:
                raise
        if layout.is_pool(layout.index(place)):
            await self._connection.slow_call("POST", "_aliases", body=layout.join_pool(place))
        if await self._index_of(place) is None:
            raise StoreError(
                f"The index {layout.index(place)!r} is there without its alias {layout.alias(place)!r}: add the alias, "
                "or delete the index and run `parley index rebuild`."
            )

    async def _refresh(self, place: Place) -> None:
        await self._connection.slow_call("POST", (await self._laid_out()).alias(place), "_refresh")

    async def _delete(self, place: Place, clause: Any) -> None:
        """Delete what is there now, a page of keys at a time."""
        alias = (await self._laid_out()).alias(place)
        try:
            # What was written without a refresh goes, too.
            await self._refresh(place)
            async with self._point_in_time(alias) as pit:
                after: list[Any] | None = None
                while page := (await self._page("_search", body=delete_body(clause, pit, after)))["hits"]:
                    keys: list[EntryKey] = [key_of(hit) for hit in page]
                    await self._bulk.write(alias, delete_lines(place, keys))
                    after = page[-1]["sort"]
            if after is not None:
                await self._refresh(place)
        except IndexAbsent:
            self._known.pop(place.name, None)

    async def _searches(self, body: bytes) -> list[Any]:
        """The parts of an `_msearch`, all of them answered."""
        reply = await self._connection.call("POST", "_msearch", body=body, kind=LINES)
        for part in reply["responses"]:
            if "error" in part:
                raise of_reply(self._connection.where, int(part.get("status", 500)), part)
        replies: list[Any] = reply["responses"]
        return replies

    async def _page(self, *path: str, body: bytes) -> Any:
        """The hits of one search."""
        query = {"allow_partial_search_results": "false"}
        return (await self._connection.call("POST", *path, body=body, query=query))["hits"]

    @asynccontextmanager
    async def _point_in_time(self, alias: str) -> AsyncIterator[str]:
        reply = await self._connection.call("POST", alias, "_pit", query={"keep_alive": "2m"})
        try:
            yield reply["id"]
        finally:
            await self._connection.call("DELETE", "_pit", body=encoded({"id": reply["id"]}))


def _check_dim(place: Place, vector: Vector) -> None:
    if vector.shape != (place.dim,):
        raise InvalidInput(
            f"A vector of shape {vector.shape} does not fit {place.name!r}, which holds {place.dim} numbers a vector."
        )
