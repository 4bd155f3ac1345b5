"""The service that peers run, and Tandem where a group has to be ill in a way that no real one is. Only the standard library.

usage: stub.py PORT [FLAPS]    answers; FLAPS is a file that has every other answer to /health be 500 while it is there
"""
import http.server, os, pathlib, signal, socket, sys

HELD = []
COUNT = [0]


class Stub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        broken = False
        if self.path == "/health":
            COUNT[0] += 1
            broken = COUNT[0] % 2 == 0 and len(sys.argv) > 2 and pathlib.Path(sys.argv[2]).exists()
        if self.path == "/eat":
            while len(HELD) < 600:
                HELD.append(bytearray(b"x") * (1 << 20))
        if self.path == "/flood":
            line = (b"flood " * 166 + b"flow\n") * 1000
            for _ in range(700):
                os.write(1, line)
        self.send_response(500 if broken else 200)
        self.end_headers()
        state = '{"state":"failed","cause":"every other answer"}' if broken else '{"state":"ready","cause":""}'
        self.wfile.write(state.encode() if self.path == "/health" else str(os.getpid()).encode())

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    http.server.ThreadingHTTPServer.request_queue_size = 64
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Stub)
    if told := os.environ.get("NOTIFY_SOCKET"):
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", told)
    server.serve_forever()
