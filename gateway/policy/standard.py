"""The policy of this product, readable by an auditor: two lists, in order, with a reason per line.

Authentication is not in the lists: its failure is an HTTP status before JSON-RPC exists, and its product, the
principal, is a required field of every call. No configuration reorders or removes a line.
"""

from __future__ import annotations

from gateway.policy.attribution import Attribution
from gateway.policy.authorization import Authorization
from gateway.policy.pipeline import Pipeline
from gateway.policy.stage import Recorder
from gateway.policy.uri_rewriting import UriRewriting


def standard(recorder: Recorder) -> Pipeline:
    """The pipeline every call passes."""
    return Pipeline(
        request_stages=(
            Authorization(),  # the cheapest certain refusal comes first: no later stage sees what is not permitted
        ),
        result_stages=(
            Attribution(),  # before whatever later shows or hides a text: the origin is part of the text
            UriRewriting(),  # last before the client: nothing after it would know the upstream's own URIs
        ),
        recorder=recorder,
    )
