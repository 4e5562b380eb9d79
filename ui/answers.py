"""The model's own answer, generated beside the page: who clicks on waits neither for their answer nor for another's."""

from __future__ import annotations

import streamlit as st

from lens.backend.answers import Answer
from lens.backend.store import STORE
from lens.errors import Cancelled, LensError
from lens.jobs import Crew, Job
from lens.progress import Report
from lens.turns import Urgency
from ui import state
from ui.state import Reader

SOON = 0.2
"""Seconds that the page waits for an answer before it is left to come later."""


@st.cache_resource
def _crew() -> Crew:
    """One answer at a time: a model holds its lock for as long as it speaks."""
    return Crew(most=1, each=1)


def draw(reader: Reader) -> None:
    """What the model says to the prompt, in the sidebar."""
    with st.sidebar, st.container(key="answer"):
        st.caption("The model's own answer")
        try:
            answer = STORE.answered(reader.loaded, reader.encoded) or _asked(reader)
        except LensError as error:
            state.show_error(error)
            return
        if answer is not None:
            st.text((answer.text or "(it says nothing)") + ("" if answer.finished else " …"))


def _asked(reader: Reader) -> Answer | None:
    """The answer if it comes soon; else how far it is, and the page is drawn again when it is there."""
    key, job = st.session_state.get("asked-answer", ("", None))
    if key != reader.encoded.run or _given_up(job):
        if job is not None:
            job.cancel()  # nobody waits for it any more

        def work(_report: Report) -> Answer:
            return STORE.answer(reader.loaded, reader.encoded)

        job = _crew().start(work, state.session(), Urgency.ANSWER)
        st.session_state["asked-answer"] = (reader.encoded.run, job)
    if job.wait(SOON):
        return job.result()
    _watch(job)
    return None


def _given_up(job: Job[Answer] | None) -> bool:
    if job is None or not job.done:
        return job is None
    try:
        job.result()
    except Cancelled:
        return True
    except LensError:
        return False
    return True  # it was answered, and the answer is no longer held


@st.fragment(run_every=0.5)
def _watch(job: Job[Answer]) -> None:
    if job.done:
        st.rerun()
    others = f", after {job.ahead} other{'s' * (job.ahead != 1)}" if job.ahead else ""
    st.markdown(f":material/hourglass_top: Answering{others}")
