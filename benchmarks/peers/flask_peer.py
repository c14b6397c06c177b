"""Flask, gunicorn, pycryptodome and psycopg: how most tap back ends are written.

gunicorn runs `application` with two processes of four threads, because its default worker closes every connection. Each thread
has a database connection of its own. Otherwise it does the same as `aiohttp_asyncpg`.
"""

from __future__ import annotations

import hmac
import os
import threading

import psycopg
from Crypto.Cipher import AES
from Crypto.Hash import CMAC
from flask import Flask, Response, jsonify, request

from benchmarks.peers.sdm import sdm_mac

ADVANCE = "UPDATE peer_tag SET last_counter = %(n)s, scan_count = scan_count + 1 WHERE code = %(x)s AND last_counter < %(n)s"
application = Flask(__name__)
tags: dict[str, tuple[bytes, bytes]] = {}
own = threading.local()


def aes_cmac(key: bytes, message: bytes) -> bytes:
    return bytes(CMAC.new(key, message, ciphermod=AES).digest())


def database() -> psycopg.Connection:
    if not hasattr(own, "connection"):
        own.connection = psycopg.connect(os.environ["BENCH_DSN"], autocommit=True)
    connection: psycopg.Connection = own.connection
    return connection


@application.get("/v1/t")
def tap() -> Response | tuple[Response, int]:
    try:
        code, counter, mac = request.args["x"], int(request.args["n"], 16), bytes.fromhex(request.args["e"])
    except (KeyError, ValueError):
        return jsonify(error="invalid_parameter"), 400
    tag = tags.get(code)
    if tag is None:
        row = database().execute("SELECT uid, key FROM peer_tag WHERE code = %s", (code,)).fetchone()
        if row is None:
            return Response('{"error":"not_found"}', 404, mimetype="application/json")
        tag = tags[code] = row[0], row[1]
    uid, key = tag
    passed = False
    if 0 < counter < 1 << 24 and hmac.compare_digest(sdm_mac(aes_cmac, key, uid, counter), mac):
        passed = database().execute(ADVANCE, {"x": code, "n": counter}).rowcount == 1
    return Response(f'{{"xuid":"{code}","response":"{"Pass" if passed else "Fail"}"}}', mimetype="application/json")
