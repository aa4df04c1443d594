// Server-Sent Events from a stream of text: EventSource sends no header, and so no key.

// Gives the last `most` events of each piece of text that is fed to it, and how many came before these.
export function events(most) {
  let rest = "";
  return (text) => {
    const whole = (rest + text).split("\n\n");
    rest = whole.pop();
    const passed = whole.slice(0, -most).filter((one) => one.startsWith("id: ")).length;
    return { found: whole.slice(-most).map(event).filter((one) => one !== null), passed };
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
