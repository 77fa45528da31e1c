/** The socket: reconnects by itself, and splits binary messages into numbers and pictures. */

const WAITS = [250, 500, 1000, 2000, 4000]; // milliseconds before each try to reconnect
const TAKEN = 4001;
const REASONS = {
  1008: "The server closed this connection. Reload the page to connect again.",
  1013: "Too many pages play already. Close one of them, then reload this page.",
  [TAKEN]: "This session is played in another tab. Reload this page to take it back.",
};
const SILENT = "The server does not answer. If diamond-bench play was started again, open the address that it printed.";
const SESSION = "diamond_bench session";

export class Connection {
  /**
   * @param {Object<string, Function>} on what to do with each kind of message, `on[kind](message, pictures: Blob[])`
   * @param {(state: "warming" | "open" | "waiting" | "closed", why: string) => void} changed
   */
  constructor(on, changed) {
    Object.assign(this, { on, changed, tries: 0 });
    this.open();
    addEventListener("online", () => this.retry());
  }

  open() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/ws`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.send({ do: "hello", session: sessionStorage.getItem(SESSION) });
      this.changed("warming", "");
    };
    socket.onmessage = ({ data }) => this.received(data);
    socket.onclose = ({ code }) => this.lost(code);
    this.socket = socket;
  }

  /** Sends a message. While there is no connection it is lost: keys and clicks of that time mean nothing later. */
  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  received(data) {
    const [message, pictures] = typeof data === "string" ? [JSON.parse(data), []] : unpacked(data);
    if (message.kind === "welcome") {
      sessionStorage.setItem(SESSION, message.session);
      this.tries = 0;
      this.changed("open", "");
    }
    this.on[message.kind]?.(message, pictures);
  }

  lost(code) {
    if (REASONS[code]) return this.changed("closed", REASONS[code]);
    const wait = WAITS[Math.min(this.tries++, WAITS.length - 1)];
    this.timer = setTimeout(() => this.open(), wait);
    this.changed("waiting", this.tries < WAITS.length ? "Reconnecting" : SILENT);
  }

  /** Tries to reconnect now. */
  retry() {
    if (this.socket.readyState !== WebSocket.CLOSED || !this.timer) return;
    clearTimeout(this.timer);
    this.open();
  }
}

/** [the header, the pictures] of a binary message: 4 bytes of length, the header's JSON, then pictures of the sizes that it names. */
export function unpacked(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let at = 4 + length;
  const pictures = sizes(header).map((size) => {
    at += size;
    return new Blob([new Uint8Array(data, at - size, size)]);
  });
  return [header, pictures];
}

function sizes(header) {
  if (header.kind === "frame") {
    const insets = header.lanes.map((lane) => lane.low_bytes).filter((size) => size !== null);
    return [...header.lanes.map((lane) => lane.bytes), ...insets, ...(header.difference ? [header.difference.bytes] : [])];
  }
  if (header.kind === "strip") return header.calls.flatMap((call) => call.bytes);
  return header.starts.map((start) => start.bytes);
}
