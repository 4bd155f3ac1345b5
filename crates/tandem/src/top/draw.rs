//! Rows as lines of a terminal, and the screen around them.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use tandem_node::GroupState;
use unicode_width::UnicodeWidthStr as _;

use super::logic::{HEADS, Row, Tone, rows};
use super::picture::Picture;
use super::view::{Mode, View};
use crate::style;

/// Lines of one note.
const NOTE_LINES: usize = 3;
/// Narrowest column for names.
const LEAST_NAME: usize = 12;

/// What is to be drawn.
pub(super) struct Screen<'a> {
    /// The last picture; none before the first.
    pub(super) picture: Option<&'a Picture>,
    pub(super) view: &'a View,
    /// Why there is no newer picture, and how old this one is, in words.
    pub(super) trouble: Option<&'a str>,
    /// Lines of the log that is looked at.
    pub(super) log: &'a [String],
    /// Whether to use colours.
    pub(super) coloured: bool,
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen<'_>) {
    let area = frame.area();
    let width = usize::from(area.width);
    let body: Vec<Line<'_>> = match (&screen.view.mode, screen.picture) {
        (Mode::Help, _) => HELP.lines().map(Line::from).collect(),
        (Mode::Log(_), _) => screen.log.iter().map(|line| Line::from(line.clone())).collect(),
        (_, None) => vec![Line::from("asking the node")],
        (_, Some(picture)) => {
            let rows = rows(picture, screen.view);
            let selected = screen.view.at(&rows);
            let (head, lines) = table(&rows, width, screen.coloured);
            let mut top = vec![title(picture, screen.view)];
            top.extend(screen.trouble.map(|trouble| painted(trouble.to_owned(), Tone::Warn, screen.coloured)));
            top.push(head);
            let room = usize::from(area.height).saturating_sub(top.len() + 1);
            top.extend(seen(lines, selected, room));
            top
        }
    };
    let is_log = matches!(screen.view.mode, Mode::Log(_));
    let room = usize::from(area.height).saturating_sub(1);
    // Of a log the end is what counts, of all else the beginning.
    let skip = if is_log { body.len().saturating_sub(room) } else { 0 };
    for (y, line) in (0..area.height.saturating_sub(1)).zip(body.into_iter().skip(skip)) {
        frame.render_widget(line, Rect { x: area.x, y: area.y + y, width: area.width, height: 1 });
    }
    if area.height > 0 {
        let last = Rect { x: area.x, y: area.y + area.height - 1, width: area.width, height: 1 };
        frame.render_widget(foot(screen.view, screen.coloured), last);
    }
}

/// The picture as text, without an end to its length.
pub(super) fn plain(picture: &Picture, view: &View, width: usize) -> String {
    let (head, lines) = table(&rows(picture, view), width, false);
    let all = [title(picture, view), head].into_iter().chain(lines.into_iter().map(|(_, line)| line));
    all.map(|line| format!("{}\n", line.to_string().trim_end())).collect()
}

/// What holds for all of it.
fn title(picture: &Picture, view: &View) -> Line<'static> {
    let groups = picture.nodes.iter().flat_map(|node| node.groups.iter().map(move |group| (node, group)));
    let built: Vec<_> = groups.filter(|(_, group)| group.state != GroupState::NotBuilt).collect();
    let serves = |state| matches!(state, GroupState::Ready | GroupState::Degraded);
    let serving = built.iter().filter(|(node, group)| !node.standing.is_stale() && serves(group.state)).count();
    let second = picture.at_us.div_euclid(1_000_000).rem_euclid(86_400);
    let time = format!("{:02}:{:02}:{:02} UTC", second / 3_600, second / 60 % 60, second % 60);
    let fleet = picture.fleet.rsplit('/').next().unwrap_or_default();
    let filter = if view.filter.is_empty() { String::new() } else { format!(", only `{}`", view.filter) };
    let order = format!("{}{filter}", view.sort.as_str());
    Line::from(vec![
        Span::styled(fleet.to_owned(), Modifier::BOLD),
        Span::raw(format!("  {serving} of {} groups serve  by {order}  {time}", built.len())),
    ])
}

/// Heads and rows, each line with the place of its row, in columns that stand below each other. A terminal that is too narrow for all of
/// them loses the last ones.
fn table(rows: &[Row], width: usize, coloured: bool) -> (Line<'static>, Vec<(usize, Line<'static>)>) {
    let widest = |of: &dyn Fn(&Row) -> usize, least: usize| rows.iter().map(of).max().unwrap_or(0).max(least);
    let states = widest(&|row| row.state.width(), "state".len());
    let figures: Vec<usize> =
        HEADS.iter().enumerate().map(|(i, head)| widest(&|row| row.cells[i].width(), head.len())).collect();
    let wanted = widest(&|row| label(row).width(), LEAST_NAME);
    let taken = |gap: usize, shown: usize| states + figures[..shown].iter().map(|w| w + gap).sum::<usize>() + gap;
    let fits = |(gap, shown): &(usize, usize)| wanted + taken(*gap, *shown) <= width;
    let ways = [(2, HEADS.len())].into_iter().chain((0..=HEADS.len()).rev().map(|shown| (1, shown)));
    let (gap, shown) = ways.into_iter().find(fits).unwrap_or((1, 0));
    let names = wanted.min(width.saturating_sub(taken(gap, shown))).max(LEAST_NAME.min(width));
    let space = " ".repeat(gap);
    let mut head = format!("{}{space}{}", padded("", names), padded("state", states));
    for (name, width) in HEADS.iter().zip(&figures[..shown]) {
        head += &format!("{space}{name:>width$}");
    }
    let mut lines = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        let mut rest = String::new();
        for (cell, width) in row.cells.iter().zip(&figures[..shown]) {
            rest += &format!("{space}{}{cell}", " ".repeat(width.saturating_sub(cell.width())));
        }
        let quiet = if row.is_stale { Style::new().add_modifier(Modifier::DIM) } else { Style::new() };
        let name = if row.depth < 2 { quiet.add_modifier(Modifier::BOLD) } else { quiet };
        let state = if row.is_stale && row.depth > 0 { quiet } else { style_of(row.tone, coloured) };
        lines.push((
            place,
            Line::from(vec![
                Span::styled(padded(&label(row), names), name),
                Span::raw(space.clone()),
                Span::styled(padded(row.state, states), state),
                Span::styled(rest, quiet),
            ]),
        ));
        let indent = 2 * row.depth + 2;
        let notes = row
            .notes
            .iter()
            .flat_map(|note| style::wrapped(note, width.saturating_sub(indent)).into_iter().take(NOTE_LINES));
        let dim = Style::new().add_modifier(Modifier::DIM);
        lines.extend(notes.map(|note| (place, Line::from(Span::styled(format!("{}{note}", " ".repeat(indent)), dim)))));
    }
    (Line::from(Span::styled(head, Modifier::UNDERLINED)), lines)
}

fn label(row: &Row) -> String {
    let mark = match row.open {
        Some(true) => "▾ ",
        Some(false) => "▸ ",
        None if row.depth > 0 => "  ",
        None => "",
    };
    format!("{}{mark}{}", " ".repeat(2 * row.depth.saturating_sub(1)), row.name)
}

/// The text in so many columns: cut off where it is longer.
fn padded(text: &str, width: usize) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if shown.width() + c.to_string().width() > width {
            break;
        }
        shown.push(c);
    }
    let room = width.saturating_sub(shown.width());
    shown + &" ".repeat(room)
}

/// As many lines as there is room for, so that those of the selected row are among them and it is marked.
fn seen(lines: Vec<(usize, Line<'static>)>, selected: usize, room: usize) -> Vec<Line<'static>> {
    let first = lines.iter().position(|(row, _)| *row == selected).unwrap_or_default();
    let last = lines.iter().rposition(|(row, _)| *row == selected).unwrap_or_default();
    // As near to the beginning as the selected row allows.
    let skip = (last + 1).saturating_sub(room).min(first);
    let mark = |(place, (_, line)): (usize, (usize, Line<'static>))| {
        if place == first { line.patch_style(Modifier::REVERSED) } else { line }
    };
    lines.into_iter().enumerate().skip(skip).take(room).map(mark).collect()
}

fn foot(view: &View, coloured: bool) -> Line<'static> {
    match &view.mode {
        Mode::Filter(_) => Line::from(format!("/{}█  Enter keeps it, Esc leaves it as it was", view.filter)),
        Mode::Restart(group) => {
            painted(format!("restart {group}? y does, any other key does not"), Tone::Warn, coloured)
        }
        Mode::Log(group) => Line::from(format!("the last lines of {group}  Esc goes back")),
        Mode::Help => Line::from("any key goes back, q ends"),
        Mode::Table => match &view.said {
            Some(said) => painted(said.clone(), Tone::Warn, coloured),
            None => Line::from("q ends  ? help  Enter opens  s sorts  / filters  r restarts  l shows the log"),
        },
    }
}

fn painted(text: String, tone: Tone, coloured: bool) -> Line<'static> {
    Line::from(Span::styled(text, style_of(tone, coloured)))
}

fn style_of(tone: Tone, coloured: bool) -> Style {
    let colour = |colour| if coloured { Style::new().fg(colour) } else { Style::new() };
    match tone {
        Tone::Good => colour(Color::Green),
        Tone::Warn => colour(Color::Yellow),
        Tone::Bad => colour(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Dim => Style::new().add_modifier(Modifier::DIM),
    }
}

const HELP: &str = "\
Keys
  up, down, j, k   walk                Enter   open a group, or close it
  PgUp, PgDn, g, G walk far            s       sort groups by the next column
  /                filter by name or state, of a group or what it is made of
  Esc              no filter           r       restart a group, after y
  l                its last log lines  q       end

Columns; - stands for what nobody measured
  for      how long it is in this state; of this node, how long it runs
  memory   resident memory of the process; of a node, in use and in all
  cpu      of one processor, over the last 2 s; of a node, of all of them
  rst      how often its process was started again
  probe    how long /health took just now; of another node, its last answer
  req/s    calls that its agents served, mean of the last minute watched
  p95      95 of 100 calls took at most this long, streams left out";
