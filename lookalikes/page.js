// Picks a picture, asks the server about it, shows the answer. Whatever comes from outside becomes text or an attribute, never markup.
const $ = name => element.querySelector('.lk-' + name)
const make = (tag, props = {}, ...children) => { const e = Object.assign(document.createElement(tag), props); e.append(...children); return e }
const percent = v => (100*v).toFixed(v > .9995 || v < .0005 ? 2 : 1) + ' %'
const limits = props.limits, input = $('file')
const plain = name => name.replaceAll('_', ' ')       // classes are often named after folders
const busy = 'Looking …'
let under_way = null, stream = null, shown = null

function tell(text, bad = false) {
  $('say').textContent = bad ? '' : text
  $('drop').classList.toggle('busy', text === busy)
  $('error').textContent = bad ? text : ''
  $('error').hidden = !bad
}

function figure(src, alt, caption, credit) {
  const f = make('figure', {}, make('img', {src, alt}), make('figcaption', {textContent: caption}))
  if (credit) f.append(make('p', {className: 'lk-credit', textContent: credit}))
  return f
}

const hint = 'The answer comes here: what it is, how sure that is, where in the picture the model saw it, and which of the pictures that it learnt from are most like it.'

function bars(a) {
  const most = Object.entries(a.probabilities).sort((x, y) => y[1] - x[1])
  const rows = most.slice(0, props.bars).map(([label, p]) => {
    const fill = make('span', {className: 'lk-fill'}), row = make('li', {}, make('span', {className: 'lk-name', textContent: plain(label)}), make('span', {className: 'lk-percent', textContent: percent(p)}), make('span', {className: 'lk-track'}, fill))
    fill.style.width = `${100*p}%`
    return row
  })
  if (most.length > rows.length) rows.push(make('li', {className: 'lk-hint', textContent: `and ${most.length - rows.length} more, all less likely`}))
  const list = make('ul', {className: 'lk-bars'}, ...rows)
  list.setAttribute('aria-label', 'Probabilities')
  return list
}

function verdict(a) {
  const answer = $('answer'), reasons = $('reasons')
  answer.classList.toggle('unsure', !!a?.abstained)
  if (!a) return answer.replaceChildren(make('p', {className: 'lk-hint', textContent: hint})), reasons.replaceChildren()
  const name = plain(a.label), said = a.abstained ? (a.why === 'not sure' ? `Not sure: ${name}, perhaps` : `Unlike what it learnt from; ${name} would be a guess`) : name
  const parts = [make('h2', {textContent: said}), make('p', {textContent: `${percent(a.confidence)} for ${name}`})]
  if (a.labels) parts.push(make('p', {textContent: a.labels.length ? 'Possible: ' + a.labels.map(plain).join(', ') : 'No class is likely enough to be called possible.'}))
  const why = [make('h3', {textContent: 'Where it looked'}), make('div', {className: 'lk-figures'}, figure(a.seen, 'The part of the picture that was looked at', 'What it saw'),
    figure(a.heatmap, `Heatmap: where the evidence for ${name} is`, `What speaks for ${name}: yellow most, blue little, grey nothing`))]
  if (a.nearest.length) why.push(make('h3', {textContent: 'Nearest pictures it learnt from'}),
    make('div', {className: 'lk-figures lk-nearest'}, ...a.nearest.map(n => figure(n.image, `A picture it learnt as ${plain(n.label)}`, plain(n.label), n.credit))))
  answer.replaceChildren(...parts, bars(a))
  reasons.replaceChildren(...why)
  const top = answer.getBoundingClientRect().top        // on a telephone it is below what can be seen
  if (top > .7*innerHeight) answer.scrollIntoView({block: 'start', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth'})
  return said
}

async function ask(file) {
  under_way?.abort()
  const mine = under_way = new AbortController()
  verdict(null)
  if (shown) URL.revokeObjectURL(shown)
  $('shown').src = shown = URL.createObjectURL(file)
  if (file.size > limits.file) return tell(`${file.name}: ${(file.size/2**20).toFixed(1)} MB, over the limit of ${(limits.file/2**20).toFixed(0)} MB for one file`, true)
  tell(busy)
  const form = new FormData()
  form.append('file', file, file.name || 'picture')
  try {
    const reply = await fetch(new URL('predict?explain=true', document.baseURI), {method: 'POST', body: form, signal: mine.signal})
    const said = await reply.json()
    if (mine !== under_way) return
    if (!reply.ok) return tell(said.error, true)
    const a = said.predictions[0]
    tell(`${verdict(a)}. ${percent(a.confidence)} for ${plain(a.label)}.`)
  } catch (e) { if (mine === under_way && e.name !== 'AbortError') tell(`No answer: the server cannot be reached (${e.message}). Try again in a moment.`, true) }
}

const pick = files => { const f = [...files].find(f => f.size >= 0); if (f) ask(f) }
input.addEventListener('change', () => { pick(input.files); input.value = '' })
document.addEventListener('paste', e => { if (e.clipboardData?.files.length) { e.preventDefault(); pick(e.clipboardData.files) } })
for (const [kind, on] of [['dragover', true], ['dragleave', false], ['drop', false]])
  $('drop').addEventListener(kind, e => { e.preventDefault(); $('drop').classList.toggle('over', on); if (kind === 'drop') pick(e.dataTransfer.files) })
$('shown').addEventListener('load', () => { $('shown').hidden = false })
$('shown').addEventListener('error', () => { $('shown').hidden = true })

const stop = () => { stream?.getTracks().forEach(t => t.stop()); stream = null; $('live').hidden = true; $('camera').setAttribute('aria-expanded', 'false') }
$('camera').addEventListener('click', async () => {
  if (stream) return stop()
  if (!navigator.mediaDevices) return tell('The camera is only to be had on https:// pages and on this computer itself.', true)
  try { stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}}) }
  catch (e) { return tell(`No camera: ${e.message}`, true) }
  $('live').hidden = false
  $('camera').setAttribute('aria-expanded', 'true')
  element.querySelector('video').srcObject = stream
  $('take').focus()
})
$('take').addEventListener('click', () => {
  const v = element.querySelector('video'), c = make('canvas', {width: v.videoWidth, height: v.videoHeight})
  if (!v.videoWidth) return
  c.getContext('2d').drawImage(v, 0, 0)
  c.toBlob(b => { stop(); $('camera').focus(); ask(new File([b], 'camera.jpg', {type: 'image/jpeg'})) }, 'image/jpeg', .92)
})
$('close').addEventListener('click', () => { stop(); $('camera').focus() })

element.querySelector('h1').textContent = props.called
$('classes').textContent = plain(props.classes)
$('facts').textContent = props.facts
verdict(null)

$('try').hidden = !props.examples.length
props.examples.forEach(o => {
  const b = make('button', {type: 'button'}, make('img', {src: o.image, alt: `Example: ${plain(o.label)}`}))
  b.addEventListener('click', () => {
    const bytes = Uint8Array.from(atob(o.image.split(',')[1]), c => c.charCodeAt(0))
    ask(new File([bytes], 'example.jpg', {type: 'image/jpeg'}))
  })
  $('examples').append(make('li', {}, b))
})
