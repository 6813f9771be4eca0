// Filters the operations of the reference page by words. Everything is on the page already; this only hides and shows.
// `/` goes to the field, Escape empties it.

const field = document.querySelector('#search');
const key = document.querySelector('.search kbd');
const nothing = document.querySelector('#nothing');
const menu = document.querySelector('.menu');
const operations = [...document.querySelectorAll('.operation')].map((element) => ({
  element,
  words: element.dataset.words,
  link: document.querySelector(`nav li[data-for="${CSS.escape(element.id)}"]`),
}));
const groups = [...document.querySelectorAll('nav .group')];
const sections = [...document.querySelectorAll('main .tag')];
const others = [...document.querySelectorAll('main .static, main .intro')];

function filter() {
  const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  const isSearching = wanted.length > 0;
  let count = 0;
  for (const { element, words, link } of operations) {
    const isFound = wanted.every((word) => words.includes(word));
    element.hidden = !isFound;
    if (link) link.hidden = !isFound;
    if (isFound) count += 1;
  }
  for (const section of sections) section.hidden = isSearching && !section.querySelector('.operation:not([hidden])');
  for (const group of groups) {
    group.hidden = isSearching && !group.querySelector('li:not([hidden])');
  }
  for (const other of others) other.hidden = isSearching;
  nothing.hidden = !isSearching;
  nothing.textContent =
    count === 0 ? `No operation has “${field.value.trim()}”.` : `${count} of ${operations.length} operations`;
  if (isSearching) window.scrollTo(0, 0);
}

/** A link to something that the search hides ends the search. */
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target || !target.closest('[hidden]')) return;
  field.value = '';
  filter();
  target.scrollIntoView();
}

/** On a narrow screen the menu covers the page: it is closed at first, and after a choice. */
const narrow = matchMedia('(max-width: 60rem)');
function fold() {
  menu.open = !narrow.matches;
}

field.hidden = false;
key.hidden = false;
field.addEventListener('input', filter);
addEventListener('hashchange', reveal);
narrow.addEventListener('change', fold);
menu.addEventListener('click', (event) => {
  if (narrow.matches && event.target.closest('a')) menu.open = false;
});
addEventListener('keydown', (event) => {
  if (event.key === '/' && !/^(input|textarea)$/i.test(document.activeElement?.tagName ?? '')) {
    event.preventDefault();
    field.focus();
  } else if (event.key === 'Escape' && document.activeElement === field) {
    field.value = '';
    filter();
    field.blur();
  }
});
fold();
