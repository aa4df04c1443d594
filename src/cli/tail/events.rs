//! Server-Sent Events, taken apart as they come in.

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Empty: it has none.
    pub(super) name: String,
    /// Its lines of data.
    pub(super) data: String,
}

/// Makes events of bytes.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// A line that has not ended.
    line: Vec<u8>,
    name: String,
    data: Option<String>,
}

impl Events {
    /// Adds bytes, and returns the events that are whole by them.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut found = Vec::new();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                found.extend(self.line(&String::from_utf8_lossy(&line)));
            }
        }
        found
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            return self.data.take().map(|data| Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // Ids stand in the data as well; what begins with a colon only shows that the connection is alive.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let text = "retry: 1000\n\n:\n\nid: 1\ndata: {\"a\":\ndata: \"é\"}\n\nevent: error\r\ndata: x\r\n\r\nid: 2\n\ndata\n\ndata: torn";
        let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
        let wanted = [event("", "{\"a\":\n\"é\"}"), event("error", "x"), event("", "")];
        assert_eq!(Events::default().feed(text.as_bytes()), wanted);
        for cut in 0..text.len() {
            let mut events = Events::default();
            let mut found = events.feed(&text.as_bytes()[..cut]);
            found.extend(events.feed(&text.as_bytes()[cut..]));
            assert_eq!(found, wanted, "{cut}");
        }
    }
}
