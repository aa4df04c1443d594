//! `ttdust top`: a live view of a server's shards and streams, by its public interface alone.
//!
//! The terminal is driven by hand: raw mode and sizes come from `rustix`, which the program has anyway, and five escape
//! sequences are all else that it takes. A library for it would bring ten more crates.

mod exposition;
mod figures;
mod keys;
mod poll;
mod screen;
mod view;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{Receiver, Sender, UnboundedReceiver, channel},
    time::sleep,
};

use super::{
    failure::{Failure, Outcome},
    output::Form,
    session::Session,
    text::parse_duration,
};
use keys::Key;
use poll::{Frame, Poller};
use screen::Screen;
use view::{Act, Shown, View};

/// What to look at, and how often.
#[derive(Args)]
#[command(after_help = "\
Keys: q quit, s or ←→ sort, p pause, ↑↓ PgUp PgDn Home End scroll.

Rates and latencies are of the time between two looks. LAG is the time in which as many records come in, at the present
rate, as are in no committed file yet. ERR/S are records that their schema or a pipeline refuses, requests that fail or are
refused for now, and flushes that fail. The log's quota needs a key that may read the settings, streams one that may read them.")]
pub struct Top {
    /// The time between two looks.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Look at one interval and print that: for scripts, as a table or with -o json.
    #[arg(long)]
    once: bool,
    /// Streams to ask after at a look: the busiest, and the others in turns. Each is a call of the admin plane.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=500))]
    streams: u16,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    let good = (Duration::from_millis(200)..=Duration::from_secs(3600)).contains(&interval);
    if good { Ok(interval) } else { Err("want a time from 200ms to 1h".to_owned()) }
}

/// A look, or why there is none.
type Looked = Result<Frame, Failure>;

/// Shows the server until it is ended.
pub(super) async fn run(top: Top, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    let mut poller = Poller::new(api, top.streams.into());
    if top.once {
        poller.look().await?;
        sleep(top.interval).await;
        let frame = poller.look().await?;
        if output.form == Form::Json {
            let json = serde_json::to_string(&frame).expect("numbers and texts");
            output.json(&json)?;
            return output.flush();
        }
        let [(titles, rows), (of_streams, streams)] = view::tables(&frame);
        output.table(titles, rows)?;
        output.line("")?;
        return output.table(of_streams, streams);
    }
    if output.form == Form::Json || !output.is_terminal() || !io::stdin().is_terminal() {
        let what =
            "top draws on a terminal, and this is none: give --once for one look, and -o json with it for programs";
        return Err(Failure::usage(what));
    }
    let (looks, looked) = channel(1);
    let mut live = Live::new(looked, output.has_color())?;
    tokio::select! {
        outcome = live.run() => outcome,
        failure = poll_for_ever(&mut poller, top.interval, looks) => Err(failure),
    }
}

/// Looks again and again, and ends only if it makes no sense to go on.
async fn poll_for_ever(poller: &mut Poller<'_>, interval: Duration, looks: Sender<Looked>) -> Failure {
    loop {
        let began = Instant::now();
        let looked = poller.look().await;
        if let Err(failure @ (Failure::Usage(_) | Failure::OutputClosed)) = looked {
            return failure;
        }
        // While nobody takes it, there is nobody to look for.
        if looks.send(looked).await.is_err() {
            return Failure::Interrupted;
        }
        sleep(interval.saturating_sub(began.elapsed())).await;
    }
}

/// The screen, and what changes it.
struct Live {
    looks: Receiver<Looked>,
    keys: UnboundedReceiver<Key>,
    resized: Signal,
    /// Whatever ends a program from outside.
    ends: [Signal; 3],
    shown: Shown,
    away_since: Option<Instant>,
    view: View,
    color: bool,
    /// Goes last: then the terminal is as it was.
    screen: Screen,
}

impl Live {
    fn new(looks: Receiver<Looked>, color: bool) -> Result<Self, Failure> {
        let cannot = |error: io::Error| Failure::usage(format!("cannot watch for signals and keys: {error}"));
        let on = |kind| signal(kind).map_err(cannot);
        Ok(Self {
            looks,
            resized: on(SignalKind::window_change())?,
            ends: [on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?],
            shown: Shown::default(),
            away_since: None,
            view: View::default(),
            color,
            // Keys are read only once the terminal gives them one by one.
            screen: Screen::enter()?,
            keys: keys::of_stdin().map_err(cannot)?,
        })
    }

    async fn run(&mut self) -> Outcome {
        loop {
            self.draw()?;
            let [interrupt, terminate, hangup] = &mut self.ends;
            tokio::select! {
                Some(looked) = self.looks.recv() => self.take(looked),
                key = self.keys.recv() => match key.map(|key| self.view.press(key)) {
                    Some(Some(Act::Quit)) => return Ok(()),
                    // Where no keys can come any more, nobody sits there.
                    Some(Some(Act::Interrupt)) | None => return Err(Failure::Interrupted),
                    Some(Some(Act::Draw) | None) => {}
                },
                _ = self.resized.recv() => {}
                _ = interrupt.recv() => return Err(Failure::Interrupted),
                _ = terminate.recv() => return Err(Failure::Interrupted),
                _ = hangup.recv() => return Err(Failure::Interrupted),
            }
        }
    }

    fn take(&mut self, looked: Looked) {
        if self.view.paused {
            return;
        }
        match looked {
            Ok(frame) => {
                (self.shown.frame, self.shown.away, self.away_since) = (Some(frame), None, None);
            }
            Err(failure) => {
                let since = *self.away_since.get_or_insert_with(Instant::now);
                self.shown.away = Some((since.elapsed(), failure.first_line()));
            }
        }
    }

    fn draw(&mut self) -> Outcome {
        let (columns, height) = self.screen.size();
        let lines = self.view.lines(&self.shown, columns, height);
        self.screen.draw(&lines, self.color)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_neither_a_flood_nor_for_ever() {
        assert_eq!(interval("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(interval("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["0s", "199ms", "2h", "2", ""] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
