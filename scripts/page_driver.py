#!/usr/bin/env python3
"""Opens the server's page in headless Chromium, over its DevTools protocol, and takes pictures; for page_screenshot.sh.

    scripts/page_driver.py URL [FOLDER POLICY]      standard library only; POLICY "": the page's first

Exit 1 when the page did not do what it should. Without a folder it only looks whether the page loads and offers the
server's policies.
"""

import base64
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request


class Page:
    """One tab, driven over a websocket."""

    def __init__(self, address):
        host, _, path = address.removeprefix("ws://").partition("/")
        name, port = host.split(":")
        self.socket, self.number = socket.create_connection((name, int(port)), timeout=120), 0
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)

    def read(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                sys.exit("page_driver: chromium closed the connection")
            data += part
        return data

    def receive(self):
        text = b""
        while True:  # a message may come in several frames
            first, second = self.read(2)
            length = second & 127
            if length == 126:
                length, = struct.unpack(">H", self.read(2))
            elif length == 127:
                length, = struct.unpack(">Q", self.read(8))
            text += self.read(length)
            if first & 128:
                return json.loads(text)

    def call(self, method, **params):
        self.number += 1
        text = json.dumps({"id": self.number, "method": method, "params": params}).encode()
        mask = os.urandom(4)
        size = bytes([128 | len(text)]) if len(text) < 126 else bytes([128 | 126]) + struct.pack(">H", len(text))
        self.socket.sendall(b"\x81" + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(text)))
        while (answer := self.receive()).get("id") != self.number:
            pass
        return answer.get("result", {})

    def value(self, script):
        return self.call("Runtime.evaluate", expression=script)["result"].get("value")

    def wait(self, script, what, seconds=100):
        deadline = time.time() + seconds
        while not self.value(script):
            if time.time() > deadline:
                sys.exit(f"page_driver: {what}: not within {seconds} s")
            time.sleep(0.1)

    def open(self, url, width, height, theme):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)

    def picture(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


def check_view(page, url, policy):
    page.wait("document.querySelector('#result')?.dataset.state === 'done'", "the answers")
    page.wait("document.querySelectorAll('#tokens .gone, #tokens .going').length > 0", "tokens that fade")
    page.wait("/faster|slower/.test(document.querySelector('#ttft').textContent)", "dense beside pruned")
    page.wait("Number(document.querySelector('#stage').value) === stages.length + 1", "what is left")


def press(page, key, code, **more):
    page.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **more)


def check_policies(page, url):
    page.open(url, 1400, 1150, "light")
    page.wait("document.querySelector('#model').textContent !== '…'", "the model", 20)
    model = json.load(urllib.request.urlopen(f"{url}/v1/models"))["data"][0]
    wanted = {policy["name"] for policy in model["winnow"]["policies"]} | {"dense", "keep09", "keep08", "keep07"}
    offered = set(json.loads(page.value("JSON.stringify([...document.querySelector('#policy').options].map(o => o.value))")))
    if not wanted <= offered:
        sys.exit(f"page_driver: the page offers {offered}, the server has {wanted}: {page.value('document.body.innerText')}")


def check_keys(page, url):
    """As someone without a mouse would: Ctrl+Enter asks, Esc stops, the arrow keys go to the other tab."""
    page.open(url, 1400, 1150, "light")
    page.wait("document.querySelector('#policy')?.options.length > 0", "the policies", 20)
    page.value("fillExample(); document.querySelector('#question').focus()")
    press(page, "Enter", 13, modifiers=2)
    page.wait("document.querySelector('#result').dataset.state === 'running'", "a question by Ctrl+Enter", 5)
    press(page, "Escape", 27)
    page.wait("document.querySelector('#answer-note').textContent === 'stopped'", "an answer stopped by Esc", 20)
    page.value("document.querySelector('#tab-view').focus()")
    press(page, "ArrowRight", 39)
    page.wait("!document.querySelector('#chat').hidden && document.activeElement.id === 'tab-chat'", "the chat by arrow key", 5)


def main():
    url, folder, policy = (sys.argv[1:] + [None, None])[:3]
    with tempfile.TemporaryDirectory() as profile:
        chromium = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0",
             f"--user-data-dir={profile}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file = os.path.join(profile, "DevToolsActivePort")
            for _ in range(300):
                if os.path.exists(port_file) and open(port_file).read().count("\n"):
                    break
                time.sleep(0.1)
            port = open(port_file).read().split("\n")[0]
            tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list"))
            page = Page(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
            check_policies(page, url)
            if folder is None:
                return
            for name, width, height, theme in (("view-light", 1400, 1150, "light"), ("view-dark", 1400, 1150, "dark"),
                                               ("narrow", 420, 1600, "light")):
                page.open(f"{url}/#example" + (f"={policy}" if policy else ""), width, height, theme)
                check_view(page, url, policy)
                time.sleep(1)  # the last fade
                page.picture(f"{folder}/{name}.png")
            check_keys(page, url)
            page.open(f"{url}/#chat=What%20is%20winnowing%3F", 1000, 700, "light")
            page.wait("document.querySelector('.turn:last-child .note')?.textContent.includes('first token')", "the chat's answer")
            page.picture(f"{folder}/chat.png")
        finally:
            chromium.terminate()
            chromium.wait()


if __name__ == "__main__":
    main()
