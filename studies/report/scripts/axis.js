// Logarithmic axes: how far they reach, and their ticks.
// What lies beyond Tukey's fences does not stretch them, unless it is needed.
function reachOf(values, needed) {
  const logs = values.map(Math.log10).sort((a, b) => a - b);
  const quantile = (share) => logs[Math.round(share * (logs.length - 1))];
  const fence = 1.5 * (quantile(0.75) - quantile(0.25));
  const ends = needed.map(Math.log10);
  const low = Math.min(Math.max(logs[0], quantile(0.25) - fence), ...ends);
  const high = Math.max(Math.min(logs[logs.length - 1], quantile(0.75) + fence), ...ends);
  const room = Math.max(0.07 * (high - low), 0.02);
  return [10 ** (low - room), 10 ** (high + room)];
}

function ticksOf([low, high], most) {
  const decades = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade += 1) decades.push(10 ** decade);
  for (const mantissas of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const found = decades.flatMap((decade) => mantissas.map((mantissa) => mantissa * decade))
      .filter((tick) => tick >= low && tick <= high);
    if (found.length > most) continue;
    if (found.length > 2) return found;
    break;
  }
  const rough = (high - low) / (most - 1);
  const decade = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * decade).find((one) => one >= rough * 0.999);
  const found = [];
  for (let place = Math.ceil(low / step); place * step <= high; place += 1) found.push(place * step);
  return found;
}

const tickText = (value) => Number(value.toPrecision(3)).toLocaleString("en");
