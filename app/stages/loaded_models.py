"""The models of a worker: loaded ones are available at once, others are fetched and loaded in a thread."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from app.domain.changes import ModelChange
from app.errors import FraudstreamError, NotAnsweringError, NotFoundError, UsageError
from app.repeated_warnings import RepeatedWarning
from app.stages.scoring_models import Model, UnloadableModel, is_refused
from app.wire.control_records import encode_change

#: A name of its own, because the logs of Faust's services are silenced.
logger = logging.getLogger("fraudstream")

#: Number of loaded models that are kept: the current one, challengers, and some earlier ones.
KEPT = 12
_RETRY_SECONDS = 0.5
#: After which a challenger or earlier model that was refused is tried again: its artifact may have been mended.
_AGAIN_SECONDS = 60.0
_LOADING = "it is being loaded"


class ModelSupply:
    """Supplies models by hash. `get` never blocks; `obtain` waits for a model. Belongs to one event loop.

    Args:
        load: loads the model of a hash; blocks, so it runs in a thread.
        forget: called with a model that is no longer kept.

    Attributes:
        waiting: for each model that is being obtained, by hash, the reason why it is not available yet.
        refused: by hash, why models are refused here, as far as they were tried.
    """

    def __init__(
        self, load: Callable[[str], Model], forget: Callable[[str], None] = lambda _: None
    ) -> None:
        self.waiting: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self._load = load
        self._forget = forget
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._unloadable: dict[str, UnloadableModel] = {}
        self._again_at: dict[str, float] = {}
        self._tasks: dict[tuple[str, bool], asyncio.Task[None]] = {}

    def get(self, model_hash: str) -> Model | None:
        """The loaded model; None if it is not loaded: the caller then obtains it."""
        model = self._models.get(model_hash)
        if model is None:
            self._start(model_hash)
        else:
            self._models.move_to_end(model_hash)
        return model

    def loaded(self, model_hash: str) -> Model | None:
        """The model of a whole or short hash, if it is loaded; loads nothing."""
        whole = self._models.get(model_hash)
        return whole or next((m for m in self._models.values() if m.hash == model_hash), None)

    def named(self, version: str) -> Model | None:
        """The model of a name and version, if it is loaded; loads nothing. Can be called from any thread."""
        return next((m for m in list(self._models.values()) if m.version == version), None)

    def challenger(self, model_hash: str) -> Model | None:
        """As `get`, for a challenger: if it cannot be loaded, a stand-in without scores; it is tried again later."""
        if model_hash in self._models:
            return self.get(model_hash)
        stands_in = self._unloadable.get(model_hash)
        if stands_in is None or self._again_at[model_hash] <= _now():
            self._start(model_hash, challenger=True)
        return stands_in

    def refusal(self, model_hash: str) -> str | None:
        """Why a model is refused here; empty: it is not, as far as is known; None: it is tried now, ask again."""
        if model_hash in self._models:
            return ""
        if model_hash in self.refused:
            return self.refused[model_hash]
        if (
            self.waiting.get(model_hash, _LOADING) != _LOADING
        ):  # a server does not answer, for example
            return ""
        self._start(model_hash, challenger=True)
        return None

    async def obtain(self, needed: Any) -> None:
        """Return once a model (a `ModelNeeded`) is loaded, however long that takes.

        For a challenger, return also if it is refused: no transaction waits for it then.
        """
        here = {*self._models, *(self._unloadable if needed.challenger else ())}
        if needed.hash not in here:
            # others may wait for the same model
            await asyncio.shield(self._start(needed.hash, challenger=needed.challenger))

    async def try_once(self, model_hash: str) -> None:
        """Load a model now, if the registry answers.

        Raises:
            NotFoundError, UsageError: it does not exist or does not fit; the text says why.
        """
        if model_hash not in self._models:
            try:
                self._keep(model_hash, await asyncio.to_thread(self._load, model_hash))
            except NotAnsweringError as error:
                logger.warning("model %s is not loaded yet: %s", model_hash[:16], error)

    async def try_now(self, model_hash: str) -> Exception | None:
        """Load a model now; why that failed, None: it is loaded. A failure changes nothing."""
        if model_hash not in self._models:
            try:
                self._keep(model_hash, await asyncio.to_thread(self._load, model_hash))
            except Exception as error:
                return error
        return None

    async def try_challenger(self, model_hash: str) -> None:
        """Load a challenger now, if the registry answers; if it is refused, a stand-in takes its place."""
        if model_hash in self._models or model_hash in self._unloadable:
            return
        try:
            self._keep(model_hash, await asyncio.to_thread(self._load, model_hash))
        except Exception as error:
            if is_refused(error):
                self._give_up(model_hash, error)
            else:
                reason = _reason(error)
                logger.warning("model %s is not loaded yet: %s", model_hash[:16], reason)

    def _start(self, model_hash: str, *, challenger: bool = False) -> asyncio.Task[None]:
        task = self._tasks.get((model_hash, challenger))
        if task is None:
            self.waiting[model_hash] = _LOADING
            task = asyncio.create_task(self._obtain(model_hash, challenger=challenger))
            self._tasks[model_hash, challenger] = task
            task.add_done_callback(lambda _: self._tasks.pop((model_hash, challenger), None))
        return task

    def _give_up(self, model_hash: str, error: Exception) -> None:
        reason = _reason(error)
        if self.refused.get(model_hash) != reason:
            logger.warning("model %s cannot be loaded: %s", model_hash[:16], reason)
        self.refused[model_hash] = reason
        self._unloadable[model_hash] = UnloadableModel(model_hash, reason)
        self._again_at[model_hash] = _now() + _AGAIN_SECONDS

    async def _obtain(self, model_hash: str, *, challenger: bool) -> None:
        reminder = RepeatedWarning()
        while True:
            try:
                model = await asyncio.to_thread(self._load, model_hash)
            except Exception as error:
                if challenger and is_refused(error):
                    self.waiting.pop(model_hash, None)
                    self._give_up(model_hash, error)
                    return
                if not challenger and not isinstance(error, FraudstreamError):
                    raise
                reason = self.waiting[model_hash] = _reason(error)
                if isinstance(error, UsageError):  # until somebody mends it
                    self.refused[model_hash] = reason
                if reminder.due():
                    logger.warning(
                        "model %s is not loaded yet, trying again: %s", model_hash[:16], reason
                    )
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                break
        self.waiting.pop(model_hash, None)
        self._keep(model_hash, model)
        logger.info("model %s (%s) is loaded", model.version, model.hash)

    def _keep(self, model_hash: str, model: Model) -> None:
        self._unloadable.pop(model_hash, None)
        self._again_at.pop(model_hash, None)
        self.refused.pop(model_hash, None)
        self._models[model_hash] = model
        while len(self._models) > KEPT:
            self._forget(self._models.popitem(last=False)[0])


def _now() -> float:
    return asyncio.get_running_loop().time()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, FraudstreamError) else repr(error)


class StartingModel:
    """The model that `FRAUDSTREAM_MODEL` names: the registered one of that name, or else the one in a local folder.

    Args:
        registered: returns the hash of a registered model; blocks. Raises NotFoundError.
        local: returns the hash of a model in a local folder. Raises NotFoundError.
        publish: registers the model of a hash, and returns its name and version; blocks.
    """

    def __init__(
        self,
        registered: Callable[[], str],
        local: Callable[[], str],
        publish: Callable[[str], str],
    ) -> None:
        self._registered = registered
        self._local = local
        self._publish = publish
        self._hash: str | None = None

    async def hash(self) -> str:
        """The model's whole hash.

        Raises:
            NotFoundError: there is no such model.
            UnavailableError: the registry does not answer.
        """
        if self._hash is None:
            try:
                self._hash = await asyncio.to_thread(self._registered)
            except NotFoundError:
                self._hash = self._local()
        return self._hash

    async def change(self, threshold: float | None) -> bytes | None:
        """The first change of a new deployment, after registering its model; None while the registry does not answer.

        Args:
            threshold: the threshold that it starts with.
        """
        try:
            model_hash = await self.hash()
            model = await asyncio.to_thread(self._publish, model_hash)
        except NotAnsweringError as error:
            logger.warning("the first model is not registered yet: %s", error)
            return None
        change = ModelChange(
            model=model, hash=model_hash, threshold=threshold, how="start", by="FRAUDSTREAM_MODEL"
        )
        return encode_change(change)
