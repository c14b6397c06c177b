"""The same as web_server.py as a Flask view, with nothing but the standard library beside Flask.

    IXFAST_URL=http://127.0.0.1:8480 flask --app examples/flask_view.py run

`scan` does not depend on Flask; a Django view calls it with `request.META["QUERY_STRING"]`.
"""

import json
import os
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

from flask import Flask, request

ATTEMPTS = 3
ATTEMPT_S = 2.0

app = Flask(__name__)


@app.get("/t")
def tap() -> tuple[str, int]:
    decided = scan(request.query_string.decode("ascii", "replace"))
    if decided is None:
        return "Please try again.\n", 503
    if decided["authentic"]:
        return "Genuine\n", 200
    if decided["verdict"] == "replayed":
        return "Tap the product again.\n", 200
    if decided["verdict"] == "incomplete" or (decided["verdict"] == "unknown" and not request.query_string):
        return "Open this page by tapping the product.\n", 200
    return "Not genuine\n", 200


def scan(query: str) -> dict[str, Any] | None:
    """What ixfast decided about a tap, from the query string of its URL; None if it cannot decide now."""
    body = {"query": query}
    if "IXFAST_ACCOUNT" in os.environ:
        body["account"] = os.environ["IXFAST_ACCOUNT"]
    # The same key in every attempt: a scan that gets no response may have been accepted.
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
    if "IXFAST_API_KEY" in os.environ:
        headers["X-API-Key"] = os.environ["IXFAST_API_KEY"]
    url = os.environ.get("IXFAST_URL", "http://127.0.0.1:8480") + "/v2/scans"
    for attempt in range(ATTEMPTS):
        try:
            posted = urllib.request.Request(url, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(posted, timeout=ATTEMPT_S) as response:
                decided: dict[str, Any] = json.load(response)
                return decided
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 400:
                    return {"authentic": False, "verdict": "incomplete"}  # The URL is not one that a tag produces.
                if error.code < 500 and error.code != 429:
                    raise  # 401: the API key is wrong
        except OSError:
            pass  # It may be restarting: the loop asks again, and the same tap gets its first answer.
        time.sleep(0.1 * 2**attempt)
    return None
