//! Values that several nodes look at: one pass each. What that may cost is bounded, whatever schema and record are.

use super::Run;
use crate::schema::program::{Node, types};

/// How many bytes may be looked at again in a short record.
const AGAIN_MIN: usize = 16 << 10;

/// And in a long one, for each of its bytes.
const AGAIN_A_BYTE: usize = 16;

impl<'a> Run<'a> {
    /// A value as `node` and its branches say.
    #[inline(never)]
    pub(super) fn branched(&mut self, at: usize, node: &'a Node) -> Option<usize> {
        let branches = node.branches.as_deref()?;
        let mut end = None;
        if branches.own {
            end = Some(self.own(at, node)?);
        }
        for &number in &branches.all {
            self.spend(end.map_or(0, |end| end - at))?;
            end = Some(self.value(at, number)?);
        }
        for row in &branches.any {
            self.spend(end.map_or(0, |end| end - at))?;
            end = Some(self.any(at, row)?);
        }
        end
    }

    /// A value as any node of `row` says.
    fn any(&mut self, at: usize, row: &[usize]) -> Option<usize> {
        let wanted = types::beginning_with(self.peek(at)?);
        let (depth, others) = (self.depth, self.others.len());
        for &number in row {
            if self.program.nodes.get(number)?.types & wanted == 0 {
                continue;
            }
            if let Some(end) = self.value(at, number) {
                return Some(end);
            }
            // It may have gone to the end of the record.
            self.spend(self.text.len() - at)?;
            self.depth = depth;
            self.others.back_to(others);
        }
        None
    }

    /// Takes `bytes` from what may be looked at again.
    fn spend(&mut self, bytes: usize) -> Option<()> {
        self.spent += bytes;
        (self.spent <= AGAIN_MIN + AGAIN_A_BYTE * self.text.len()).then_some(())
    }
}
