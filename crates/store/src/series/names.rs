//! Names of series and their numbers, which all devices share.

use std::collections::HashMap;
use std::sync::Arc;

/// All names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Option<Arc<str>>>,
}

impl Names {
    /// The number of a name.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The name of a number; empty if there is none.
    pub(crate) fn name(&self, number: u32) -> Arc<str> {
        let name = usize::try_from(number).ok().and_then(|number| self.names.get(number));
        name.cloned().flatten().unwrap_or_default()
    }

    /// Adds a name that was read from the records.
    pub(crate) fn insert(&mut self, number: u32, name: &str) {
        let place = number as usize;
        if self.names.len() <= place {
            self.names.resize(place + 1, None);
        }
        let name: Arc<str> = name.into();
        self.names[place] = Some(name.clone());
        self.numbers.insert(name, number);
    }

    /// Gives a new name its number.
    pub(crate) fn add(&mut self, name: &str) -> u32 {
        // 0 stays free: numbers are written as differences.
        let number = u32::try_from(self.names.len().max(1)).expect("their number is bounded");
        self.insert(number, name);
        number
    }

    /// All of them with their numbers.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..).zip(&self.names).filter_map(|(number, name)| Some((number, name.as_deref()?)))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }
}
