"""Contrast of what a page shows, by WCAG 2.2 (1.4.3, 1.4.11), from the colours that the browser computes.

Grounds are those of the elements around a text, one over the other. Opacity of text and of elements counts. What is behind a text
inside a chart is the page's ground: charts write no text on marks.
"""

import re
from dataclasses import dataclass

TEXT, LARGE_TEXT, BORDER = 4.5, 3.0, 3.0  # least contrasts (AA)
LARGE, LARGE_BOLD = 24.0, 18.66  # CSS pixels: 18 and 14 points

Colour = tuple[float, float, float, float]  # red, green, blue of 0..255, and opacity of 0..1

# Of every text that can be seen: what it is, how it is written, and colours from its own ground outwards. Of labels
# that would overlap Vega gives some an opacity of 0.
TEXTS = """
const grounds = (element) => {
  const seen = [];
  for (let at = element; at; at = at.parentElement) seen.push(getComputedStyle(at).backgroundColor);
  return seen;
};
const strength = (element) => {
  let opacity = 1;
  for (let at = element; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
  return opacity;
};
const found = [];
const add = (element, text, style, inSvg) => found.push({
  text: text.trim().slice(0, 40), where: element.closest('[id]')?.id ?? '', size: parseFloat(style.fontSize),
  weight: Number(style.fontWeight), colour: inSvg ? style.fill : style.color,
  opacity: strength(element) * (inSvg ? Number(style.fillOpacity) : 1), grounds: grounds(element),
});
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest('script, style, noscript, option, button:disabled')) continue;
  if (!element.checkVisibility({ visibilityProperty: true }) || element.closest('.unseen, [opacity="0"]')) continue;
  add(element, walker.currentNode.data, getComputedStyle(element), element instanceof SVGElement);
}
for (const input of document.querySelectorAll('input[placeholder]')) {
  add(input, input.placeholder, getComputedStyle(input, '::placeholder'), false);
}
for (const list of document.querySelectorAll('select')) {
  add(list, list.selectedOptions[0]?.text ?? '', getComputedStyle(list), false);
}
return found;
"""

# Of every control that can be seen and has a border: the border and the ground around it.
BORDERS = """
return [...document.querySelectorAll('button:not(:disabled), select, input:not([type=range]):not([type=radio])')]
  .filter((element) => element.checkVisibility({ visibilityProperty: true }))
  .map((element) => {
    const seen = [];
    for (let at = element.parentElement; at; at = at.parentElement) seen.push(getComputedStyle(at).backgroundColor);
    return {
      text: element.textContent.trim().slice(0, 40), where: element.closest('[id]')?.id ?? '', size: 0, weight: 400,
      colour: getComputedStyle(element).borderTopColor, opacity: 1, grounds: seen,
    };
  });
"""


@dataclass(frozen=True)
class Shown:
    """Something on its ground. size: of its font, CSS pixels. grounds: CSS colours from its own ground outwards."""

    text: str
    where: str
    size: float
    weight: int
    colour: str
    opacity: float
    grounds: list[str]

    @property
    def ground(self) -> Colour:
        shown: Colour = (255.0, 255.0, 255.0, 1.0)
        for colour in reversed(self.grounds):
            shown = over(parsed(colour), shown)
        return shown

    @property
    def contrast(self) -> float:
        red, green, blue, opacity = parsed(self.colour)
        return contrast(over((red, green, blue, opacity * self.opacity), self.ground), self.ground)

    @property
    def least(self) -> float:
        return LARGE_TEXT if self.size >= (LARGE_BOLD if self.weight >= 700 else LARGE) else TEXT


def parsed(colour: str) -> Colour:
    """A colour as browsers compute it: "rgb(1, 2, 3)" or "rgba(1, 2, 3, 0.5)". Raises ValueError."""
    match = re.fullmatch(r"rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)", colour)
    if match is None:
        raise ValueError(f"not a computed colour: {colour!r}")
    red, green, blue, opacity = match.groups()
    return float(red), float(green), float(blue), float(1 if opacity is None else opacity)


def over(colour: Colour, ground: Colour) -> Colour:
    """A colour on an opaque ground."""
    opacity = colour[3]
    red, green, blue = (
        opacity * above + (1 - opacity) * below for above, below in zip(colour[:3], ground[:3], strict=True)
    )
    return red, green, blue, 1.0


def luminance(colour: Colour) -> float:
    """Relative luminance, 0 (black) to 1 (white)."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in colour[:3])
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: Colour, second: Colour) -> float:
    """1 (the same) to 21 (black on white)."""
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)
