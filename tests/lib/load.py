"""Load for the real systems: clients of AMQP 0-9-1, of XMPP and of a web application
(tools/roots/shop.exs), each as small as it can be and still use what a busy server uses.
They run in threads of this process."""

import base64
import hashlib
import re
import socket
import ssl
import struct
import subprocess
import threading

PAYLOAD = b"x" * 700


class Load:
    """`clients` threads that run work() until stop(); count says how often."""

    clients = 3

    def __init__(self, port):
        self.port, self.count, self.error, self.going = port, 0, None, True
        self.threads = [threading.Thread(target=self.main, args=(i,), daemon=True)
                        for i in range(self.clients)]
        for thread in self.threads:
            thread.start()

    def main(self, number):
        try:
            while self.going:
                self.session(number)
        except (OSError, ValueError, struct.error) as e:
            if self.going:
                self.error = "%s: %s" % (type(e).__name__, e)

    def session(self, number):
        raise NotImplementedError

    def stop(self):
        self.going = False
        for thread in self.threads:
            thread.join(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


# ---- AMQP --------------------------------------------------------------------

def short(text):
    return bytes([len(text)]) + text


def long(data):
    return struct.pack(">I", len(data)) + data


class Amqp(Load):
    """Publishes to a queue and consumes from it, connection after connection."""

    def session(self, number):
        with socket.create_connection(("127.0.0.1", self.port), 20) as sock:
            file = sock.makefile("rb")

            def send(kind, channel, data):
                sock.sendall(struct.pack(">BHI", kind, channel, len(data)) + data + b"\xce")

            def method(channel, cls, number_, data=b""):
                send(1, channel, struct.pack(">HH", cls, number_) + data)

            def wait(cls, number_):
                while True:
                    kind, _, size = struct.unpack(">BHI", file.read(7))
                    data = file.read(size + 1)[:-1]
                    if kind == 1 and struct.unpack(">HH", data[:4]) == (cls, number_):
                        return data[4:]
                    if kind == 1 and struct.unpack(">HH", data[:4]) in ((10, 50), (20, 40)):
                        raise ValueError("closed: %r" % data[4:80])

            sock.sendall(b"AMQP\x00\x00\x09\x01")
            wait(10, 10)
            method(0, 10, 11, long(b"") + short(b"PLAIN") + long(b"\0guest\0guest")
                   + short(b"en_US"))
            channels, frame, beat = struct.unpack(">HIH", wait(10, 30))
            method(0, 10, 31, struct.pack(">HIH", channels, frame, 0 * beat))
            method(0, 10, 40, short(b"/") + short(b"") + b"\0")
            wait(10, 41)
            method(1, 20, 10, short(b""))
            wait(20, 11)
            queue = b"load-%d" % number
            method(1, 50, 10, b"\0\0" + short(queue) + b"\0" + long(b""))
            wait(50, 11)
            method(1, 60, 20, b"\0\0" + short(queue) + short(b"") + b"\2" + long(b""))
            wait(60, 21)
            for _ in range(300):
                if not self.going:
                    break
                for _ in range(10):
                    method(1, 60, 40, b"\0\0" + short(b"") + short(queue) + b"\0")
                    send(2, 1, struct.pack(">HHQH", 60, 0, len(PAYLOAD), 0))
                    send(3, 1, PAYLOAD)
                for _ in range(10):
                    wait(60, 60)
                self.count += 10
            method(0, 10, 50, struct.pack(">H", 200) + short(b"") + b"\0\0\0\0")


# ---- XMPP --------------------------------------------------------------------

class Xmpp(Load):
    """Logs in over TLS and sends messages to itself, session after session."""

    clients = 6 # each is held back by the server's shaper

    def __init__(self, system, port):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        done = subprocess.run(
            ["nsenter", "-t", str(system.pid), "-m", "-u", "-p", "-i", "-r", "-w", "env",
             "HOME=/var/lib/ejabberd", "ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT=34370",
             "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "setpriv", "--reuid=ejabberd",
             "--regid=ejabberd", "--clear-groups", "ejabberdctl", "--ctl-config",
             "/tmp/ejabberd/ctl.cfg", "register", "load", "localhost", "secret"],
            capture_output=True, text=True, timeout=60, check=False)
        if done.returncode and "already registered" not in done.stdout + done.stderr:
            raise RuntimeError("ejabberdctl register: " + done.stdout + done.stderr)
        super().__init__(port)

    def session(self, number):
        sock = socket.create_connection(("127.0.0.1", self.port), 20)
        try:
            self.talk(sock)
        finally:
            sock.close()

    def talk(self, sock):
        state = {"sock": sock, "rest": b""}

        def send(text):
            state["sock"].sendall(text.encode())

        def wait(pattern):
            while True:
                hit = re.search(pattern, state["rest"], re.S)
                if hit:
                    state["rest"] = state["rest"][hit.end():]
                    return hit
                data = state["sock"].recv(65536)
                if not data:
                    raise ValueError("closed: %r" % state["rest"][-200:])
                state["rest"] += data

        def open_stream():
            send("<?xml version='1.0'?><stream:stream to='localhost' version='1.0' "
                 "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>")
            wait(rb"</stream:features>")

        open_stream()
        send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        wait(rb"<proceed[^>]*/>")
        state["sock"], state["rest"] = self.context.wrap_socket(sock), b""
        open_stream()
        plain = base64.b64encode(b"\0load\0secret").decode()
        send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>" % plain)
        wait(rb"<success")
        open_stream()
        send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
        jid = wait(rb"<jid>([^<]*)</jid>").group(1).decode()
        send("<presence/>")
        for i in range(20):
            if not self.going:
                break
            body = hashlib.sha256(b"%d" % i).hexdigest() * 4
            send("<message to='%s' type='chat' id='m%d'><body>%s</body></message>"
                 % (jid, i, body))
            wait(rb"<body>%s</body>" % body.encode())
            self.count += 1
        send("</stream:stream>")


# ---- HTTP --------------------------------------------------------------------

class Http(Load):
    """Reads pages and says something in rooms, connection after connection, while others
    listen there. Two thousand users in all, so that sessions and caches find their size."""

    clients = 4
    users, rooms, listeners = 2000, 8, 24

    def __init__(self, port):
        self.listening = []
        for i in range(self.listeners):
            sock = socket.create_connection(("127.0.0.1", port), 20)
            sock.sendall(b"GET /listen?room=%d HTTP/1.1\r\nHost: x\r\n\r\n" % (i % self.rooms))
            self.listening.append(sock)
            threading.Thread(target=self.drain, args=(sock,), daemon=True).start()
        super().__init__(port)

    def drain(self, sock):
        try:
            while sock.recv(65536):
                pass
        except OSError:
            pass

    def session(self, number):
        with socket.create_connection(("127.0.0.1", self.port), 20) as sock:
            file = sock.makefile("rb")
            for i in range(200):
                if not self.going:
                    return
                user = (self.count * 7 + number * 500) % self.users
                if i % 5:
                    sock.sendall(b"GET /page?user=%d HTTP/1.1\r\nHost: x\r\n\r\n" % user)
                else:
                    sock.sendall(b"POST /say?room=%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d"
                                 b"\r\n\r\n%s" % (user % self.rooms, len(PAYLOAD), PAYLOAD))
                status = file.readline()
                if b" 200 " not in status:
                    raise ValueError("answered %r" % status)
                length = 0
                while True:
                    line = file.readline().strip().lower()
                    if not line:
                        break
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                file.read(length)
                self.count += 1

    def stop(self):
        super().stop()
        for sock in self.listening:
            sock.close()
