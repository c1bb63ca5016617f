// The page of lookalikes.cleaner: a plain module that anywidget loads. Everything from outside is set as text, never as HTML.

const HELP = [['← ↑ → ↓', 'move to another picture'], ['K', 'keep: fine as it is'], ['Q', 'quarantine: set aside'], ['R', 'relabel: choose the class'],
  ['1 – 9', 'relabel: the class of that number'], ['A', 'relabel as suggested'], ['C', 'clear what was decided'], ['U', 'undo'], ['Shift U', 'redo'],
  ['N, P', 'next, previous page; in the closer look, picture'], ['Enter', 'closer look; both pictures of a pair'], ['D', 'dry run, and apply'], ['Esc', 'back to the pictures'], ['?', 'this help']]
const MARKS = {keep: ['✓', 'keep'], relabel: ['⇄', 'relabel'], quarantine: ['✕', 'quarantine'], restore: ['↩', 'restore']}
const percent = x => x === null || x === undefined ? '' : `${Math.round(100 * x)} %`
let count = 0

/** An element: properties in `props` (`on...` listens, `aria-...` and `data-...` are attributes), then children, strings as text. */
function h(tag, props = {}, ...children) {
  const e = document.createElement(tag)
  for (const [k, v] of Object.entries(props)) {
    if (v === undefined || v === null || v === false) continue
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v)
    else if (k in e && !k.includes('-')) e[k] = v
    else e.setAttribute(k, v === true ? '' : v)
  }
  e.append(...children.filter(c => c !== null && c !== undefined && c !== false))
  return e
}

function select(name, options, value, change) {
  return h('label', {className: 'lk-field'}, h('span', {}, name),
    h('select', {'aria-label': name, onchange: e => change(options[e.target.selectedIndex][0])}, ...options.map(([v, text]) => h('option', {selected: v === value}, text))))
}

function render({model, el}) {
  const id = `lk${++count}`
  let state = null, cards = [], urls = [], large = [], at = 0, look = null, panel = '', wanted = '', wait = null, columns = 1

  const bar = h('div', {className: 'lk-bar'}), keys = h('div', {className: 'lk-keys'}), grid = h('div', {className: 'lk-grid', role: 'group', 'aria-label': 'Pictures to decide about'})
  const meter = h('progress', {max: 1, value: 0, 'aria-labelledby': `${id}-done`}), done = h('span', {id: `${id}-done`, className: 'lk-done'}), here = h('span', {className: 'lk-here'})
  const live = h('div', {className: 'lk-said', role: 'status', 'aria-live': 'polite'}), trouble = h('div', {className: 'lk-trouble', role: 'alert', hidden: true})
  const pager = h('div', {className: 'lk-pager'}), side = h('section', {className: 'lk-panel', hidden: true, tabIndex: -1})
  const root = h('div', {className: 'lk', role: 'region', 'aria-label': 'Cleaner'},
    h('div', {className: 'lk-head'}, meter, done, here), bar, keys, trouble, live, grid, side, pager)
  el.append(root)

  const ask = (type, more = {}) => {
    clearTimeout(wait)
    const silent = () => complain('The kernel does not answer: it is busy, or it was restarted. All that was decided is saved; run the cell again to go on.')
    wait = setTimeout(silent, 8000)
    if (type === 'plan' || type === 'look') wanted = type  // until the answer comes, or Escape is pressed first
    try { model.send({type, ...more}) } catch { silent() }  // a kernel that is gone
  }
  const complain = text => { trouble.textContent = text; trouble.hidden = !text }
  const button = (text, click, more = {}) => h('button', {type: 'button', onclick: click, ...more}, text)
  const url = (bytes, list) => {
    if (!bytes || !bytes.byteLength) return ''
    const u = URL.createObjectURL(new Blob([bytes], {type: 'image/jpeg'}))
    list.push(u)
    return u
  }
  const forget = list => { for (const u of list.splice(0)) URL.revokeObjectURL(u) }
  const inside = () => root.contains(document.activeElement)

  // What a picture says, shared by cards and by the closer look
  function mark(c) {
    if (!c.choice) return h('span', {className: 'lk-mark'}, 'undecided')
    const [sign, word] = MARKS[c.choice], done = {quarantine: 'quarantined', relabel: 'relabelled'}[c.choice]
    return h('span', {className: `lk-mark lk-${c.choice}`}, `${sign} ${c.applied && done ? done : word}${c.new_label ? ` → ${c.new_label}` : ''}`)
  }
  const label = (c, small = false) => h('div', {className: 'lk-label', title: c.name}, h('b', {}, c.label || 'no label'), c.pred ? h('span', {className: c.pred === c.label ? '' : 'lk-differs'}, ` model: ${c.pred} ${percent(c.confidence)}`) : null, small ? h('div', {className: 'lk-name'}, c.name) : null)
  const whys = c => c.why.length ? h('ul', {className: 'lk-why'}, ...c.why.map(w => h('li', {title: w.text}, h('b', {}, w.kind), w.score === null ? '' : ` ${w.score.toFixed(2)}`, w.text ? h('span', {}, ` ${w.text}`) : null))) : null
  const spoken = c => [c.name, `label ${c.label || 'none'}`, c.pred && `model says ${c.pred} ${percent(c.confidence)}`, ...c.why.map(w => `${w.kind}: ${w.text}`), c.error && `cannot be shown: ${c.error}`,
    c.choice ? `decided: ${c.choice} ${c.new_label}` : 'undecided'].filter(Boolean).join(', ')
  const verdicts = (c, small = false) => h('div', {className: 'lk-verdicts'},
    button('✓ K', () => decide(c, 'keep'), {title: 'Keep (K)', 'aria-label': `Keep ${c.name}`, 'aria-pressed': String(c.choice === 'keep'), tabIndex: -1}),
    button('✕ Q', () => decide(c, 'quarantine'), {title: 'Quarantine: set aside (Q)', 'aria-label': `Quarantine ${c.name}`, 'aria-pressed': String(c.choice === 'quarantine'), tabIndex: -1}),
    button('⇄ R', () => relabel(c), {title: 'Relabel (R)', 'aria-label': `Relabel ${c.name}`, 'aria-pressed': String(c.choice === 'relabel'), tabIndex: -1}),
    small && button(c.partners ? '◫ ⏎' : '⤢ ⏎', () => ask('look', {id: c.id}), {title: c.partners ? 'Both pictures of the pair (Enter)' : 'Closer look (Enter)', 'aria-label': `Look closer at ${c.name}`, tabIndex: -1}))

  // The grid
  function fill(node, c, src) {
    node.className = `lk-card ${c.choice ? `lk-has lk-is-${c.choice}` : ''}`
    node.setAttribute('aria-label', spoken(c))
    node.replaceChildren(
      h('div', {className: 'lk-pic'}, src ? h('img', {src, alt: '', draggable: false}) : h('span', {className: 'lk-error'}, c.error || 'no picture'), mark(c)),
      label(c, true), whys(c) || '', verdicts(c, true))
  }
  function draw() {
    grid.replaceChildren(...cards.map((c, i) => {
      const node = h('div', {role: 'group', tabIndex: i === at ? 0 : -1, onmousedown: () => pick(i, false), onfocus: () => pick(i, false), ondblclick: e => { if (!e.target.closest('button')) ask('look', {id: c.id}) }})
      c.node = node
      fill(node, c, c.src)
      return node
    }))
    if (!cards.length) grid.append(h('p', {className: 'lk-none'}, nothing()))
    pick(at, false)
  }
  function nothing() {
    const [n, of] = state.here
    if (n === of && of && state.filters.show === 'undecided') return `Everything here is decided: ${n} of ${of}. D shows what applying would do.`
    return of ? 'No picture is left by these filters.' : 'There is nothing to decide here.'
  }
  function pick(i, focus = true) {
    at = Math.max(0, Math.min(i, cards.length - 1))
    cards.forEach((c, j) => { c.node.tabIndex = j === at ? 0 : -1; c.node.setAttribute('aria-current', String(j === at)) })
    if (focus && cards[at]) cards[at].node.focus()
  }
  function across() {
    const top = cards[0] && cards[0].node.offsetTop
    return columns = Math.max(1, cards.filter(c => c.node.offsetTop === top).length)
  }

  // Verdicts
  function decide(c, action, label = '') {
    ask('decide', {id: c.id, action, label})
    if (!look && cards[at] && cards[at].id === c.id && at < cards.length - 1) pick(at + 1, inside())
  }
  function relabel(c) {
    const list = h('div', {className: 'lk-classes', role: 'listbox', 'aria-label': 'Classes'}), close = () => show(look ? 'look' : '')
    const choose = l => { close(); decide(c, 'relabel', l) }
    const find = h('input', {type: 'search', placeholder: 'type to find a class, or a new one', 'aria-label': `New label for ${c.name}`, oninput: fillList, onkeydown: e => {
      if (e.key === 'Enter') { e.preventDefault(); e.stopPropagation(); const b = list.querySelector('button'); if (b) b.click() }
      if (e.key === 'ArrowDown') { e.preventDefault(); const b = list.querySelector('button'); if (b) b.focus() }
    }})
    function fillList() {
      const q = find.value.trim().toLowerCase(), all = state.classes.map((name, i) => [name, i])
      const near = all.filter(([n]) => n.toLowerCase().includes(q)).sort(([a], [b]) => (b === c.suggested) - (a === c.suggested) || (b.toLowerCase().startsWith(q)) - (a.toLowerCase().startsWith(q)))
      list.replaceChildren(...near.slice(0, 60).map(([n, i]) => button(`${n}${n === c.suggested ? ' (suggested)' : n === c.label ? ' (as it is)' : ''}`, () => choose(i), {role: 'option'})),
        q && !all.some(([n]) => n.toLowerCase() === q) ? button(`new class “${find.value.trim()}”`, () => choose(find.value.trim()), {role: 'option'}) : '')
    }
    fillList()
    show('relabel', h('h3', {}, 'What does it show?'), h('div', {className: 'lk-ask'}, c.src ? h('img', {src: c.src, alt: ''}) : '', h('div', {}, label(c), whys(c) || '', find, list, button('Cancel (Esc)', close))))
    find.focus()
  }
  const suggest = c => { if (c.suggested) decide(c, 'relabel', state.classes.includes(c.suggested) ? state.classes.indexOf(c.suggested) : c.suggested) }

  // The panel that takes the place of the pictures
  function show(name, ...children) {
    const had = inside()
    panel = name
    if (name !== 'look' && name !== 'relabel') { look = null; forget(large) }
    side.hidden = !name
    grid.hidden = keys.hidden = !!name
    pager.hidden = !!name || !state || state.pages < 2
    if (name === 'look') drawLook()
    else side.replaceChildren(...children)
    if (!name && had) pick(at)
    if (name && name !== 'relabel' && had) side.focus()
  }
  function drawLook() {
    const two = look.sides.length > 1
    side.replaceChildren(h('h3', {}, two ? `A pair${look.n > 1 ? ` (${look.k + 1} of ${look.n})` : ''}: which to keep?` : look.sides[0].name),
      h('div', {className: `lk-look ${two ? 'lk-two' : ''}`}, ...look.sides.map((c, i) => {
        const node = h('figure', {tabIndex: i === look.on ? 0 : -1, 'aria-label': spoken(c), 'aria-current': String(i === look.on), className: c.choice ? `lk-has lk-is-${c.choice}` : '', onfocus: () => { if (look.on !== i) { look.on = i; sides() } }, onmousedown: () => { look.on = i; sides() }},
          h('div', {className: 'lk-pic'}, c.src ? h('img', {src: c.src, alt: c.name}) : h('span', {className: 'lk-error'}, c.error || 'no picture'), mark(c)),
          h('figcaption', {}, h('code', {}, c.name), ` ${c.width} × ${c.height}, ${Math.max(1, Math.round((c.bytes || 0) / 1000)).toLocaleString('en')} kB`, label(c), whys(c) || ''), verdicts(c))
        c.node = node
        return node
      })),
      h('div', {className: 'lk-row'}, button('Back (Esc)', () => show('')), look.n > 1 ? button('Next partner (↓)', () => ask('look', {id: look.id, k: look.k + 1})) : '', button('Next (N)', () => step(1))))
  }
  function sides() { look.sides.forEach((c, i) => { c.node.tabIndex = i === look.on ? 0 : -1; c.node.setAttribute('aria-current', String(i === look.on)) }) }
  function step(by) { if (cards[at + by]) { pick(at + by, false); ask('look', {id: cards[at].id}) } else live.textContent = 'No further picture on this page' }
  function plan(m) {
    const head = ['file', 'action', 'label', 'new_label', 'reason', 'moves_to', 'problem'], names = {new_label: 'new label', moves_to: 'moves to'}
    const bad = m.rows.some(r => r.problem), cols = head.filter(k => k === 'file' || k === 'action' || m.rows.some(r => r[k]))
    show('plan', h('h3', {}, m.n ? `Applying would change ${m.n} picture${m.n > 1 ? 's' : ''}` : 'Applying would change nothing'),
      m.n ? h('div', {className: 'lk-scroll', tabIndex: 0, role: 'region', 'aria-label': 'Dry run'}, h('table', {}, h('thead', {}, h('tr', {}, ...cols.map(k => h('th', {scope: 'col'}, names[k] || k)))),
        h('tbody', {}, ...m.rows.map(r => h('tr', {}, ...cols.map(k => h('td', {}, r[k]))))))) : h('p', {}, 'What is kept needs no change.'),
      m.n > m.rows.length ? h('p', {}, `and ${m.n - m.rows.length} more`) : '', bad ? h('p', {className: 'lk-trouble'}, 'The last column says what is in the way.') : '',
      m.n ? h('p', {}, 'Nothing is deleted: files move to .quarantine/, and “Undo apply” brings everything back as it was.') : '',
      h('div', {className: 'lk-row'}, m.n || state.unfinished ? button(m.n ? `Apply ${m.n} change${m.n > 1 ? 's' : ''}` : 'Finish the interrupted apply', () => ask('apply'), {className: 'lk-go'}) : '', button('Back (Esc)', () => show(''))))
    const first = side.querySelector('.lk-row button')
    if (first && inside()) first.focus()
  }
  const help = () => show('help', h('h3', {}, 'Keys'), h('dl', {className: 'lk-help'}, ...HELP.flatMap(([k, v]) => [h('dt', {}, h('kbd', {}, k)), h('dd', {}, v)])),
    h('p', {}, 'Every verdict is saved as you give it. Nothing is deleted, and all of it can be undone.'), h('div', {className: 'lk-row'}, button('Back (Esc)', () => show(''))))

  // Around the pictures
  function frame() {
    const s = state, [n, of] = s.progress, [a, b] = s.here
    meter.max = of || 1
    meter.value = n
    done.textContent = `${n} of ${of} decided`
    here.textContent = b !== of || a !== n ? `under these filters: ${a} of ${b}` : ''
    const focused = bar.contains(document.activeElement) ? [...bar.querySelectorAll('select,button')].indexOf(document.activeElement) : -1
    const classes = [[null, 'every class'], ...s.classes.map((c, i) => [i, c])]
    bar.replaceChildren(
      select('Issue', s.kinds, s.filters.kind, v => ask('select', {kind: v})), select('Class', classes, s.label, v => ask('select', {label: v})),
      select('Show', s.shows, s.filters.show, v => ask('select', {show: v})), select('Order', s.orders, s.filters.by, v => ask('select', {by: v})),
      h('div', {className: 'lk-row'}, button('Undo', () => ask('undo'), {disabled: !s.undo, title: 'Undo (U)'}), button('Redo', () => ask('redo'), {disabled: !s.redo, title: 'Redo (Shift U)'}),
        button(s.pending ? `Dry run and apply (${s.pending})` : 'Dry run', () => ask('plan'), {title: 'What applying would do (D)', className: s.pending ? 'lk-go' : ''}),
        button('Undo apply', () => ask('undo_apply'), {disabled: !s.applies && !s.unfinished, title: 'Bring back what the last apply changed'}), button('?', help, {title: 'Keys (?)', 'aria-label': 'Help: the keys'})))
    if (focused >= 0) { const f = bar.querySelectorAll('select,button')[focused]; if (f) f.focus() }
    keys.replaceChildren(...[['K', 'keep'], ['Q', 'quarantine'], ['R', 'relabel'], ...s.classes.slice(0, 9).map((c, i) => [String(i + 1), c]), ['U', 'undo'], ['Enter', 'look closer'], ['?', 'all keys']]
      .map(([k, v]) => h('span', {}, h('kbd', {}, k), ` ${v}`)))
    pager.replaceChildren(button('‹ Previous (P)', () => turn(-1), {disabled: s.page === 0}), h('span', {}, `Page ${s.page + 1} of ${s.pages}, ${s.shown} picture${s.shown === 1 ? '' : 's'}`), button('Next (N) ›', () => turn(1), {disabled: s.page + 1 >= s.pages && s.filters.show !== 'undecided'}))
    pager.hidden = !!panel || s.pages < 2
    if (s.unfinished) complain('An apply was interrupted. The dataset is sound; “Dry run” and apply finish it, “Undo apply” takes it back.')
  }
  const turn = by => { if (state.page + by >= 0) { at = 0; ask('page', {to: state.page + by}) } }

  // What the kernel says
  function hear(m, buffers) {
    clearTimeout(wait)
    state = m.state
    if (m.type !== 'error') complain('')
    if (m.said) live.textContent = m.said
    if (m.type === 'error') complain(m.text)
    if (m.type === 'page') {
      const had = inside(), moved = m.cards.map(c => c.id).join() !== cards.map(c => c.id).join()
      forget(urls)
      cards = m.cards.map((c, i) => ({...c, src: url(buffers[i], urls)}))
      const focus = cards.findIndex(c => c.id === m.focus)
      at = focus >= 0 ? focus : moved ? 0 : at
      frame()
      draw()
      show('')
      if (had && !bar.contains(document.activeElement)) pick(at)
    } else frame()
    if (m.type === 'cards') for (const c of m.cards) {
      const mine = cards.find(o => o.id === c.id), shown = look && look.sides.find(o => o.id === c.id)
      if (mine) { const had = mine.node.contains(document.activeElement); Object.assign(mine, c); fill(mine.node, mine, mine.src); if (had && document.activeElement === document.body) mine.node.focus() }
      if (shown) { const had = inside(); Object.assign(shown, c); if (panel === 'look') { drawLook(); if (had) look.sides[look.on].node.focus() } }
    }
    if (m.type === 'look' && wanted === 'look') {
      const had = inside()
      forget(large)
      look = {id: m.sides[0].id, k: m.k, n: m.n, on: 0, sides: m.sides.map((c, i) => ({...c, src: url(buffers[i], large)}))}
      const i = cards.findIndex(c => c.id === look.id)
      if (i >= 0) pick(i, false)
      show('look')
      if (had) look.sides[0].node.focus()
    }
    if (m.type === 'plan' && wanted === 'plan') { wanted = ''; plan(m) }
  }

  // Keys. None of ours reaches the notebook, whose command mode would cut cells; its own with Ctrl or Cmd pass.
  function press(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return
    e.stopPropagation()
    const tag = e.target.tagName, typing = tag === 'INPUT' || tag === 'SELECT'
    if (e.key === 'Escape') wanted = ''
    if (e.key === 'Escape' && panel) { e.preventDefault(); return show(panel === 'relabel' && look ? 'look' : '') }
    if (!state || typing || e.key === 'Tab') return
    if (tag === 'BUTTON' && (e.key === 'Enter' || e.key === ' ')) return
    const c = look ? look.sides[look.on] : panel ? null : cards[at], k = e.key.length === 1 ? e.key.toLowerCase() : e.key
    const go = f => { e.preventDefault(); f() }
    if (k === '?') return go(help)
    if (k === 'u') return go(() => ask(e.shiftKey ? 'redo' : 'undo'))
    if (k === 'd') return go(() => ask('plan'))
    if (panel === 'relabel' && (k === 'ArrowDown' || k === 'ArrowUp')) {
      const all = [...side.querySelectorAll('.lk-classes button')], i = all.indexOf(e.target)
      return go(() => (all[i + (k === 'ArrowDown' ? 1 : -1)] || side.querySelector('input')).focus())
    }
    if (panel && panel !== 'look') return
    if (k === 'n' || k === 'p') return go(() => (look ? step : turn)(k === 'n' ? 1 : -1))
    if (!c) return
    if (k === 'k') return go(() => decide(c, 'keep'))
    if (k === 'q') return go(() => decide(c, 'quarantine'))
    if (k === 'c') return go(() => decide(c, 'clear'))
    if (k === 'r') return go(() => relabel(c))
    if (k === 'a') return go(() => suggest(c))
    if (/^[1-9]$/.test(k) && Number(k) <= state.classes.length) return go(() => decide(c, 'relabel', Number(k) - 1))
    if (look) {
      if ((k === 'ArrowLeft' || k === 'ArrowRight') && look.sides.length > 1) return go(() => look.sides[look.on = k === 'ArrowRight' ? 1 : 0].node.focus())
      if ((k === 'ArrowDown' || k === 'ArrowUp') && look.n > 1) return go(() => ask('look', {id: look.id, k: (look.k + (k === 'ArrowDown' ? 1 : look.n - 1)) % look.n}))
      if (k === 'Enter') return go(() => show(''))
      return
    }
    if (k === 'Enter') return go(() => ask('look', {id: c.id}))
    const move = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across(), ArrowDown: columns, Home: -at, End: cards.length - 1 - at}[k]
    if (move !== undefined) go(() => { if (cards[at + move] || Math.abs(move) === 1) pick(at + move) })
  }
  root.addEventListener('keydown', press)
  for (const type of ['keyup', 'keypress']) root.addEventListener(type, e => { if (!(e.ctrlKey || e.metaKey || e.altKey)) e.stopPropagation() })

  model.on('msg:custom', hear)
  ask('page')
  return () => { clearTimeout(wait); model.off('msg:custom', hear); forget(urls); forget(large) }
}

export default {render}
