"""The gateway against vLLM itself: the same request to both, the answers compared field by field.

One request at a time, greedy and short. What chance decides is tried again: a prefix that is cached by now,
a near-tie of two tokens, how tokens fall into chunks. Where only a text differs to the end, structure counts.
"""

import pytest

from tests.appliance import Appliance, Reply, fetch
from tests.contract.cases import Case, all_cases, fault_cases
from tests.contract.compare import Verdict, compare, shape, text_of
from tests.contract.table import Table

TRIES = 4
BYPASS = {"x-switchgear-cache": "bypass"}


def ask_both(appliance: Appliance, case: Case) -> tuple[Reply, Reply]:
    direct = fetch(appliance.direct(f"{case.body['model']}-0") + case.path, case.body)
    return direct, appliance.post(case.path, case.body, BYPASS)


def verdict_of(appliance: Appliance, case: Case) -> tuple[Verdict, str, int]:
    """Compare until equal; the verdict, the word for the table and the status."""
    for number in range(TRIES):
        direct, ours = ask_both(appliance, case)
        assert direct.status == 200, direct.body
        verdict = compare(direct, ours, streamed=case.streamed, include_usage=case.include_usage)
        if not verdict.differences:
            return verdict, "equal" + (f" (try {number + 1})" if number else ""), ours.status
    if not verdict.text_differs or ours.status != 200:
        return verdict, "DIFFERENT", ours.status
    if case.streamed:
        theirs, own = ({str(shape(one)) for one in reply.payloads} for reply in (direct, ours))
        same = theirs == own and text_of(direct, streamed=True).keys() == text_of(ours, streamed=True).keys()
    else:
        same = shape(direct.json) == shape(ours.json)
    return verdict, "same structure, other text" if same else "DIFFERENT", ours.status


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_an_answer_is_vllms_own(appliance: Appliance, table: Table, case: Case) -> None:
    verdict, word, status = verdict_of(appliance, case)
    chunks = str(verdict.chunks[1]) if case.streamed else ""
    table.add(case.name, status, verdict.fields, chunks, word)
    assert word != "DIFFERENT", verdict.differences


@pytest.mark.parametrize("case", fault_cases(), ids=lambda case: case.name)
def test_a_refusal_is_vllms_own_in_openais_shape(appliance: Appliance, table: Table, case: Case) -> None:
    direct, ours = ask_both(appliance, case)
    table.add(case.name, ours.status, 0, "", "same status" if direct.status == ours.status else "DIFFERENT")
    assert direct.status == ours.status == 400
    assert ours.headers["content-type"] == "application/json"
    assert ours.headers["x-request-id"].startswith("req_")
    assert list(ours.json) == ["error"]
    error, theirs = ours.json["error"], direct.json["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == ("context_length_exceeded" if "context" in case.name else "invalid_value")
    own_check = error["message"] != theirs["message"]
    param = (theirs["param"] or "").removeprefix("body.")
    if own_check:  # the gateway said it first, and at least as precisely
        assert error["param"]
        assert error["param"].partition("[")[0] == (param or error["param"]).partition(".")[0]
    else:
        assert error["param"] == (param or None)


@pytest.mark.parametrize("path", ["/models", "/models/small"])
def test_models_are_listed_as_vllm_lists_its_own(appliance: Appliance, path: str) -> None:
    ours = fetch(
        appliance.base_url + path, method="GET", headers={"authorization": f"Bearer {appliance.api_key}"}
    )
    listed = ours.json["data"] if path == "/models" else [ours.json]
    (theirs,) = fetch(appliance.direct("small-0") + "/models", method="GET").json["data"]
    (small,) = [one for one in listed if one["id"] == "small"]
    assert {"id", "object", "created", "owned_by"} <= small.keys() <= theirs.keys()
    assert (small["id"], small["object"]) == (theirs["id"], theirs["object"])
