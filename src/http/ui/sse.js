// Server-Sent Events from a stream of text: EventSource sends no header, and so no key.

// Gives the events of each piece of text that is fed to it.
export function events() {
  let rest = "";
  return (text) => {
    const whole = (rest + text).split("\n\n");
    rest = whole.pop();
    return whole.map(event).filter((found) => found !== null);
  };
}

function event(text) {
  const found = { id: "", name: "message", data: "" };
  let hasData = false;
  for (const line of text.split("\n")) {
    if (line.startsWith("data: ")) {
      found.data += (hasData ? "\n" : "") + line.slice(6);
      hasData = true;
    } else if (line.startsWith("id: ")) {
      found.id = line.slice(4);
    } else if (line.startsWith("event: ")) {
      found.name = line.slice(7);
    }
  }
  return hasData ? found : null;
}
