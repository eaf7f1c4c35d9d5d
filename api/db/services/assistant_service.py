"""Chat assistants: which datasets they answer from, with which model, prompt and search settings."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from api.db.database import Database
from api.db.services.assistant_defaults import COLUMNS, LLM, PROMPT
from api.db.services.names import clean_label, deduplicate, normalise
from api.db.services.owned import in_groups, split_duplicates
from api.db.services.owned_chats import DELETED, chat_named, chat_record, live_chats, own_chat
from api.db.services.records import BatchResult, DatasetRecord, DialogRecord, Page
from api.db.services.row_limits import check_fits
from api.db.services.row_pages import page_of
from api.db.services.secret_box import SecretBox
from api.db.services.web_pages import with_sealed_key
from api.db.tables import Dialog, Tenant
from rag.core.clock import Clock, now_ms
from rag.core.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from rag.core.ids import new_id
from rag.core.types import Principal

LONGEST_NAME = 255
_FIELDS = frozenset((*COLUMNS, "name", "llm_id", "llm_setting", "prompt_config", "dataset_ids"))

Records = list[DialogRecord]


class Datasets(Protocol):
    """What chats need of `KnowledgebaseService`."""

    async def get(self, principal: Principal, dataset_id: str) -> DatasetRecord: ...


class ChatModels(Protocol):
    """What chats need of `ModelCatalogue`."""

    def exists(self, name: str, kind: Literal["chat", "embedding"], tenant_id: str = "") -> bool: ...
    def default_chat(self, tenant_id: str = "") -> str: ...


class RunningAnswers(Protocol):
    """What chats need of `ConversationService`."""

    async def stop_chats(self, chat_ids: Sequence[str]) -> None:
        """End what answers in the sessions of these chats, which are deleted."""
        ...


class AssistantService:
    """Every method loads by (principal, id); what is not the principal's, or was deleted, is NotFound.

    Fields are those of `DialogRecord`. Errors carry the fact `field`: which one cannot be used.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        knowledgebases: Datasets,
        models: ChatModels,
        *,
        box: SecretBox,
        answers: RunningAnswers,
    ) -> None:
        """`box` seals the chats' keys for the web search; records carry them sealed."""
        self._answers = answers
        self._box = box
        self._db = db
        self._clock = clock
        self._datasets = knowledgebases
        self._models = models

    async def create(self, principal: Principal, fields: Mapping[str, Any], *, as_page: bool = False) -> DialogRecord:
        """Make a chat. Fields left out get their defaults; so does each key of `prompt_config`.

        A sent `llm_setting` is kept exactly. Without `llm_id` the tenant's chat model is used, or the server's.

        Args:
            as_page: As the page makes chats: a taken name gets a number, datasets may have no chunks yet, the model may
                be added later, and the prompt is kept as it is sent, unchecked.
        Raises:
            NotFound: kind `dataset`: one is not the principal's.
            Conflict: field `dataset_ids` (no chunks; fact `id`), `embedding_model` (they differ) or `name` (taken).
            InvalidInput: an unknown field or model, no name, or a mandatory variable the prompt has no slot for
                (field `parameters`, fact `key`).
            LimitExceeded: a text does not fit: `name` has at most 255 characters.
        """
        _check_known(fields)
        given = {key: value for key, value in fields.items() if value is not None}
        dataset_ids = await self._checked_datasets(principal, given.get("dataset_ids", ()), as_page=as_page)
        model = given.get("llm_id") or await self._default_model(principal)
        name = _checked_name(given.get("name", ""))
        prompt = dict(given.get("prompt_config") or {})
        if not as_page:
            self._check_model(principal, model)
            prompt = _with_defaults(prompt)
            check_variables(prompt)
        columns = {key: given.get(key, default) for key, default in COLUMNS.items()}
        check_fits(Dialog, columns | {"llm_id": model})

        def write() -> DialogRecord:
            free = _free_name(principal, name, numbered=as_page)
            now = now_ms(self._clock)
            row = Dialog.create(
                id=new_id(),
                tenant_id=principal.tenant_id,
                name=free,
                live_name=normalise(free),
                llm_id=model,
                llm_setting=given.get("llm_setting", dict(LLM)),
                prompt_config=with_sealed_key(prompt, self._box, principal.tenant_id),
                dataset_ids=dataset_ids,
                create_time=now,
                update_time=now,
                **columns,
            )
            return chat_record(row)

        return await self._db.write(write)

    async def update(
        self, principal: Principal, dialog_id: str, changes: Mapping[str, Any], *, as_page: bool = False
    ) -> DialogRecord:
        """Store `changes` (final values; what is not named stays) and return the chat.

        Args:
            as_page: As in `create`, but for the prompt, which is checked.
        Raises:
            NotFound: no such chat, or kind `dataset`.
            Conflict, InvalidInput, LimitExceeded: as `create`.
        """
        await self.get(principal, dialog_id)
        _check_known(changes)
        changed = {key: value for key, value in changes.items() if value is not None}
        if "dataset_ids" in changed:
            changed["dataset_ids"] = await self._checked_datasets(principal, changed["dataset_ids"], as_page=as_page)
        if "llm_id" in changed and not as_page:
            self._check_model(principal, changed["llm_id"])
        if "name" in changed:
            changed["name"] = _checked_name(changed["name"])
        if "prompt_config" in changed:
            check_variables(changed["prompt_config"])
        check_fits(Dialog, changed)

        def write() -> DialogRecord:
            row = own_chat(principal, dialog_id)
            if "name" in changed and normalise(changed["name"]) != row.live_name:
                changed["name"] = _free_name(principal, changed["name"], numbered=as_page)
                row.live_name = normalise(changed["name"])
            if "prompt_config" in changed:
                sealed = with_sealed_key(
                    changed["prompt_config"], self._box, principal.tenant_id, stored=row.prompt_config
                )
                changed["prompt_config"] = sealed
            for key, value in changed.items():
                setattr(row, key, value)
            row.update_time = now_ms(self._clock)
            row.save(only=[*row.dirty_fields, Dialog.update_time])
            return chat_record(row)

        return await self._db.write(write)

    async def list(self, principal: Principal, page: Page, *, id: str = "", name: str = "") -> Records:
        """The principal's chats on `page`; `id` and `name` (compared normalised) narrow them.

        Raises:
            InvalidInput: `page.order_by` is no field of a chat (fact `field` is `orderby`).
        """

        def read() -> Records:
            query = Dialog.select().where(live_chats(principal))
            if id:
                query = query.where(Dialog.id == id)
            if name:
                query = query.where(Dialog.live_name == normalise(name))
            rows, _ = page_of(query, Dialog, DialogRecord, page)
            return [chat_record(row) for row in rows]

        return await self._db.run(read)

    async def search(self, principal: Principal, page: Page, keywords: str = "") -> tuple[Records, int]:
        """The principal's chats on `page` whose name holds `keywords` (compared normalised), and how many there are.

        Raises:
            InvalidInput: as `list`.
        """
        words = normalise(clean_label(keywords))

        def read() -> tuple[Records, int]:
            query = Dialog.select().where(live_chats(principal))
            if words:
                query = query.where(Dialog.live_name.contains(words))
            rows, total = page_of(query, Dialog, DialogRecord, page)
            return [chat_record(row) for row in rows], total

        return await self._db.run(read)

    async def get(self, principal: Principal, dialog_id: str) -> DialogRecord:
        """The principal's chat, or NotFound of kind `chat`."""
        return await self._db.run(lambda: chat_record(own_chat(principal, dialog_id)))

    async def by_name(self, principal: Principal, name: str) -> DialogRecord:
        """The principal's chat of that name (compared normalised), or NotFound of kind `chat`."""
        return await self._db.run(lambda: chat_record(chat_named(principal, name)))

    async def delete(self, principal: Principal, ids: Sequence[str] | None) -> BatchResult:
        """Delete chats; None means all of the principal's. Their sessions stay stored, out of reach; what answers in
        them is stopped.

        Unknown ids are reported and do not keep the others from being deleted.
        """
        wanted, duplicates = split_duplicates(ids or ())

        def write() -> list[str]:
            found = [
                row.id for row in Dialog.select(Dialog.id).where(live_chats(principal)).order_by(Dialog.create_time)
            ]
            mine = frozenset(found)
            done = found if ids is None else [each for each in wanted if each in mine]
            now = now_ms(self._clock)
            for group in in_groups(done):
                changed = Dialog.update(status=DELETED, live_name=None, update_time=now)
                changed.where(live_chats(principal) & Dialog.id.in_(group)).execute()
            return done

        done = await self._db.write(write)
        await self._answers.stop_chats(done)
        unknown = tuple(each for each in wanted if each not in frozenset(done))
        return BatchResult(done=tuple(done), unknown=unknown, duplicates=duplicates)

    async def delete_together(self, principal: Principal, ids: Sequence[str]) -> None:
        """Delete all of these chats, or none, and stop what answers in them; one that was deleted before stays so.

        Raises:
            NotFound: kind `chat`: one never was the principal's.
        """
        wanted = tuple(dict.fromkeys(ids))

        def write() -> None:
            for group in in_groups(wanted):
                own = (Dialog.tenant_id == principal.tenant_id) & Dialog.id.in_(group)
                found = {row.id for row in Dialog.select(Dialog.id).where(own)}
                for each in group:
                    if each not in found:
                        raise NotFound("chat", each)
            for group in in_groups(wanted):
                changed = Dialog.update(status=DELETED, live_name=None, update_time=now_ms(self._clock))
                changed.where(live_chats(principal) & Dialog.id.in_(group)).execute()

        await self._db.write(write)
        await self._answers.stop_chats(wanted)

    async def _checked_datasets(
        self, principal: Principal, dataset_ids: Sequence[str], *, as_page: bool
    ) -> tuple[str, ...]:
        models: set[str] = set()
        for dataset_id in dataset_ids:
            dataset = await self._datasets.get(principal, dataset_id)
            if dataset.chunk_count == 0 and not as_page:
                raise Conflict(f"The dataset {dataset_id!r} has no chunks yet.", field="dataset_ids", id=dataset_id)
            models.add(dataset.embedding_model)
        if len(models) > 1:
            raise Conflict("The datasets use different embedding models.", field="embedding_model")
        return tuple(dataset_ids)

    def _check_model(self, principal: Principal, name: Any) -> None:
        if not isinstance(name, str) or not self._models.exists(name, "chat", principal.tenant_id):
            raise InvalidInput(f"There is no chat model {name!r}.", field="llm_id")

    async def _default_model(self, principal: Principal) -> str:
        """The tenant's chat model while it can be used, else the server's."""

        def read() -> str:
            tenant = Tenant.get_or_none(Tenant.id == principal.tenant_id)
            return "" if tenant is None else str(tenant.llm_id)

        own = await self._db.run(read)
        usable = own and self._models.exists(own, "chat", principal.tenant_id)
        return own if usable else self._models.default_chat(principal.tenant_id)


def check_variables(prompt: Mapping[str, Any]) -> None:
    """Refuse a mandatory variable that the system text has no slot for.

    Raises:
        InvalidInput: field `parameters`; fact `key` names the variable.
    """
    system = str(prompt.get("system") or "")
    for variable in prompt.get("parameters") or ():
        if not isinstance(variable, Mapping) or "key" not in variable or "optional" not in variable:
            raise InvalidInput("A variable needs the keys 'key' and 'optional'.", field="parameters", key="")
        key = str(variable["key"])
        if not variable["optional"] and f"{{{key}}}" not in system:
            raise InvalidInput(f"The variable {key!r} is not used in the prompt.", field="parameters", key=key)


def _with_defaults(prompt: Mapping[str, Any]) -> dict[str, Any]:
    filled = {**PROMPT, **prompt}
    filled["system"] = filled["system"] or PROMPT["system"]
    return filled


def _check_known(given: Mapping[str, Any]) -> None:
    unknown = sorted(given.keys() - _FIELDS)
    if unknown:
        raise InvalidInput(f"A chat has no field {unknown[0]!r} that can be set.", field=unknown[0])


def _checked_name(name: Any) -> str:
    cleaned = clean_label(name) if isinstance(name, str) else ""
    if not cleaned:
        raise InvalidInput("A chat needs a name.", field="name")
    if len(cleaned) > LONGEST_NAME:
        raise LimitExceeded(f"A name has at most {LONGEST_NAME} characters.", field="name", limit=LONGEST_NAME)
    return cleaned


def _free_name(principal: Principal, name: str, *, numbered: bool) -> str:
    """`name` where no live chat has it, else, if `numbered`, the next one that is free.

    Raises:
        Conflict: it is taken. LimitExceeded: it is too long with its number.
    """

    def taken(candidate: str) -> bool:
        same = (Dialog.tenant_id == principal.tenant_id) & (Dialog.live_name == normalise(candidate))
        return bool(Dialog.select(Dialog.id).where(same).exists())

    if numbered:
        return _checked_name(deduplicate(name, taken))
    if taken(name):
        raise Conflict(f"A chat {name!r} already exists.", field="name")
    return name
