"""A storage that answers as S3 does, for as long as standard input is open.

Writes its port to standard output, then a line of JSON for every request that it has answered: who asked
for what, with which kind of authorization, and how many bytes went out.
"""

import json
import logging
import os
import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
moto = DomainDispatcherApplication(create_backend_app)
writing = threading.Lock()


def say(line):
    with writing:
        print(line, flush=True)


def noted(environ, start_response):
    answer = {}

    def start(status, headers, exc_info=None):
        answer["status"] = int(status.split()[0])
        return start_response(status, headers, exc_info)

    parts = [bytes(part) for part in moto(environ, start)]
    note = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "signed": "X-Amz-Signature=" in environ.get("QUERY_STRING", ""),
        "authorization": environ.get("HTTP_AUTHORIZATION", "").split(" ")[0],
        "agent": environ.get("HTTP_USER_AGENT", "").split("/")[0],
        "status": answer["status"],
        "bytes": sum(map(len, parts)),
    }
    say(json.dumps(note))
    return parts


server = make_server("127.0.0.1", 0, noted, threaded=True)
say(str(server.server_port))
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
os._exit(0)
