//! The terminal while it is drawn on, and given back as it was however that ends.

use std::io::{self, Stdout, stdout};
use std::panic::{set_hook, take_hook};

use crossterm::cursor::{Hide, Show};
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use tandem_types::{Fault, reason};

use super::draw::{Screen, draw};
use super::view::Press;

/// A terminal that is drawn on.
pub(super) struct Drawn {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Drawn {
    /// Takes the terminal. A panic gives it back before it says what happened.
    pub(super) fn take() -> Result<Self, Fault> {
        let former = take_hook();
        set_hook(Box::new(move |panic| {
            give_back();
            former(panic);
        }));
        let taken = || {
            enable_raw_mode()?;
            execute!(stdout(), EnterAlternateScreen, Hide)?;
            Terminal::new(CrosstermBackend::new(stdout()))
        };
        taken().map(|terminal| Self { terminal }).map_err(|e| {
            give_back();
            broken(&e)
        })
    }

    /// Draws on all of it.
    pub(super) fn draw(&mut self, screen: &Screen<'_>) -> Result<(), Fault> {
        self.terminal.draw(|frame| draw(frame, screen)).map(drop).map_err(|e| broken(&e))
    }

    /// Rows that a page has.
    pub(super) fn page(&self) -> usize {
        self.terminal.size().map_or(1, |size| usize::from(size.height).saturating_sub(4)).max(1)
    }
}

impl Drop for Drawn {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // One that has gone needs nothing.
    let (Ok(()) | Err(_)) = execute!(stdout(), Show, LeaveAlternateScreen);
    let (Ok(()) | Err(_)) = disable_raw_mode();
}

pub(super) fn broken(error: &io::Error) -> Fault {
    Fault::unavailable(
        reason::DISK,
        format!("the terminal cannot be drawn on: {error}; `tandem top --once` needs none"),
    )
}

/// What a key means; none for one that means nothing. `page` is how many rows a page has.
pub(super) fn meaning(key: KeyEvent, page: usize) -> Option<Meaning> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let press = match key.code {
        KeyCode::Char('c') if control => return Some(Meaning::Interrupt),
        KeyCode::Char(_) if control || key.modifiers.contains(KeyModifiers::ALT) => return None,
        KeyCode::Up => Press::Up,
        KeyCode::Down => Press::Down,
        KeyCode::PageUp => Press::PageUp(page),
        KeyCode::PageDown => Press::PageDown(page),
        KeyCode::Home => Press::Home,
        KeyCode::End => Press::End,
        KeyCode::Enter => Press::Enter,
        KeyCode::Esc => Press::Escape,
        KeyCode::Backspace => Press::Backspace,
        KeyCode::Char(c) => Press::Char(c),
        _ => return None,
    };
    Some(Meaning::Press(press))
}

/// What a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Ctrl-C, which a terminal that is drawn on does not make a signal of.
    Interrupt,
    Press(Press),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_is_written_on_them() {
        let key = |code, modifiers| meaning(KeyEvent::new(code, modifiers), 7);
        let none = KeyModifiers::NONE;
        for (code, modifiers, expected) in [
            (KeyCode::Char('c'), KeyModifiers::CONTROL, Some(Meaning::Interrupt)),
            (KeyCode::Char('r'), KeyModifiers::CONTROL, None),
            (KeyCode::Char('y'), KeyModifiers::ALT, None),
            (KeyCode::Char('c'), none, Some(Meaning::Press(Press::Char('c')))),
            (KeyCode::Char('G'), KeyModifiers::SHIFT, Some(Meaning::Press(Press::Char('G')))),
            (KeyCode::PageDown, none, Some(Meaning::Press(Press::PageDown(7)))),
            (KeyCode::F(1), none, None),
        ] {
            assert_eq!(key(code, modifiers), expected, "{code:?}");
        }
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyEvent::new(KeyCode::Enter, none) };
        assert_eq!(meaning(released, 1), None);
    }
}
