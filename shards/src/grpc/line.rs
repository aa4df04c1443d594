//! A connection, as its calls see it: one that finds that nothing gets through can end it.

use std::{cell::Cell, rc::Rc};

use crate::reactor::Bell;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Line {
    /// Wakes the task of the connection.
    bell: Rc<Bell>,
    is_cut: Rc<Cell<bool>>,
}

impl Line {
    /// Of the connection whose task waits for `bell`.
    #[must_use]
    pub fn new(bell: &Rc<Bell>) -> Self {
        Self { bell: Rc::clone(bell), is_cut: Rc::default() }
    }

    /// Ends the connection and all its calls.
    pub fn cut(&self) {
        self.is_cut.set(true);
        self.bell.ring();
    }

    /// Whether it is to end.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut.get()
    }
}
