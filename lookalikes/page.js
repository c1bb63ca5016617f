// Picks a picture, asks the server about it, shows the answer. Whatever comes from outside becomes text or an attribute, never markup.
const $ = name => element.querySelector('.lk-' + name)
const make = (tag, props = {}, ...children) => { const e = Object.assign(document.createElement(tag), props); e.append(...children); return e }
const percent = v => (100*v).toFixed(v > .9995 || v < .0005 ? 2 : 1) + ' %'
const limits = props.limits, input = $('file')
let under_way = null, stream = null, shown = null

function tell(text, bad = false) {
  $('say').textContent = bad ? '' : text
  $('error').textContent = bad ? text : ''
  $('error').hidden = !bad
}

function figure(src, alt, caption, credit) {
  const f = make('figure', {}, make('img', {src, alt}), make('figcaption', {textContent: caption}))
  if (credit) f.append(make('p', {className: 'lk-credit', textContent: credit}))
  return f
}

function verdict(a) {
  const [answer, reasons] = ['.lk-answer', '.lk-reasons'].map(o => document.querySelector(o))
  if (!a) return answer.replaceChildren(), reasons.replaceChildren()
  const said = a.abstained ? (a.why === 'not sure' ? `Not sure: ${a.label}, perhaps` : `Unlike what it learnt from; ${a.label} would be a guess`) : a.label
  const parts = [make('h2', {textContent: said}), make('p', {textContent: `${percent(a.confidence)} for ${a.label}`})]
  if (a.labels) parts.push(make('p', {textContent: a.labels.length ? 'Possible: ' + a.labels.join(', ') : 'No class is likely enough to be called possible.'}))
  const why = [make('div', {className: 'lk-figures'}, figure(a.seen, 'The part of the picture that was looked at', 'What it saw'),
    figure(a.heatmap, `Heatmap: where the evidence for ${a.label} is`, `Where it saw ${a.label}: yellow most, blue little, grey none`))]
  if (a.nearest.length) why.push(make('h3', {textContent: 'Nearest pictures it learnt from'}),
    make('div', {className: 'lk-figures lk-nearest'}, ...a.nearest.map(n => figure(n.image, `A picture it learnt as ${n.label}`, n.label, n.credit))))
  answer.replaceChildren(...parts)
  reasons.replaceChildren(...why)
  return said
}

function bars(a) {        // for the label component of the page
  window.lookalikes_label = !a ? {} : {label: a.label, confidences: Object.entries(a.probabilities).sort((x, y) => y[1] - x[1]).slice(0, props.bars).map(([label, confidence]) => ({label, confidence}))}
  trigger('answered')
}

async function ask(file) {
  under_way?.abort()
  const mine = under_way = new AbortController()
  verdict(null), bars(null)
  if (shown) URL.revokeObjectURL(shown)
  $('shown').src = shown = URL.createObjectURL(file)
  if (file.size > limits.file) return tell(`${file.name}: ${(file.size/2**20).toFixed(1)} MB, over the limit of ${(limits.file/2**20).toFixed(0)} MB for one file`, true)
  tell('Looking …')
  const form = new FormData()
  form.append('file', file, file.name || 'picture')
  try {
    const reply = await fetch(new URL('predict?explain=true', document.baseURI), {method: 'POST', body: form, signal: mine.signal})
    const said = await reply.json()
    if (mine !== under_way) return
    if (!reply.ok) return tell(said.error, true)
    const a = said.predictions[0]
    tell(`${verdict(a)}. ${percent(a.confidence)} for ${a.label}.`)
    bars(a)
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

$('try').hidden = !props.examples.length
props.examples.forEach(o => {
  const b = make('button', {type: 'button'}, make('img', {src: o.image, alt: `Example: ${o.label}`}))
  b.addEventListener('click', () => {
    const bytes = Uint8Array.from(atob(o.image.split(',')[1]), c => c.charCodeAt(0))
    ask(new File([bytes], 'example.jpg', {type: 'image/jpeg'}))
  })
  $('examples').append(make('li', {}, b))
})
