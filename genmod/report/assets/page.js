// The moving parts of the page: the explorer of a latent space, and pictures over time.
"use strict";

window.genmod = (() => {
  const MOST_SLIDERS = 16;
  const explorers = JSON.parse(document.getElementById("explorers").textContent);
  const decoders = {};

  function decode(run, z, choice = 0) {
    decoders[run] ||= genmodInterpreter.decoder(explorers[run].program);
    return Array.from(decoders[run](z, choice));
  }

  function normal() {
    return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  }

  function paint(canvas, [height, width, channels], pixels) {
    canvas.width = width;
    canvas.height = height;
    const image = new ImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      const colour = [0, 1, 2].map((c) => pixels[i * channels + (channels === 1 ? 0 : c)]);
      // What is not a number is none of the colours of an image: pink.
      const shown = colour.some(Number.isNaN) ? [1, 0, 1] : colour;
      shown.forEach((value, c) => (image.data[4 * i + c] = Math.round(255 * value)));
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  // So many digits after the point show where a slider that goes so far stands.
  function digits(reach) {
    return Math.min(Math.max(2 - Math.floor(Math.log10(reach)), 0), 20);
  }

  // How the plane of the latents lies on a square canvas.
  function frame(found) {
    let half = 3.5;
    const middle = [0, 0];
    const { points } = found;
    if (points.length) {
      const sides = [0, 1].map((axis) => {
        const values = points.filter((_, i) => i % 2 === axis);
        const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
        middle[axis] = (low + high) / 2;
        return (high - low) / 2;
      });
      half = 1.06 * (Math.max(...sides) || 1);
    }
    return {
      to: (a, b, size) => [(0.5 + (a - middle[0]) / half / 2) * size, (0.5 - (b - middle[1]) / half / 2) * size],
      from: (x, y) => [middle[0] + (2 * x - 1) * half, middle[1] - (2 * y - 1) * half],
    };
  }

  function explore(element) {
    const run = element.dataset.run;
    const found = explorers[run];
    const z = Array.from(found.start);
    const image = element.querySelector(".image");
    const map = element.querySelector(".map");
    const sliders = element.querySelector(".sliders");
    const choice = element.querySelector("select");
    const lying = map && frame(found);
    const background = map && plot(element, map, found, lying);
    const inputs = [];

    function show() {
      if (image) paint(image, found.program.shape, decode(run, z, choice ? Number(choice.value) : 0));
      for (const [input, output, axis] of inputs) {
        input.value = z[axis];
        output.textContent = z[axis].toFixed(digits(found.reach[axis]));
      }
      if (map) {
        const context = map.getContext("2d");
        context.drawImage(background, 0, 0);
        const { centre, directions } = found.plane;
        const at = directions.map((d) => d.reduce((sum, x, i) => sum + x * (z[i] - centre[i]), 0));
        const [x, y] = lying.to(...at, map.width);
        context.lineWidth = 5;
        context.strokeStyle = "#fff";
        context.beginPath();
        context.arc(x, y, 13, 0, 7);
        context.stroke();
        context.lineWidth = 3;
        context.strokeStyle = "#111";
        context.stroke();
      }
      element.dataset.z = JSON.stringify(z);
    }

    if (sliders) {
      for (const axis of found.order.slice(0, MOST_SLIDERS)) {
        const label = document.createElement("label");
        const input = document.createElement("input");
        const output = document.createElement("output");
        const [centre, reach] = [found.centre[axis], found.reach[axis]];
        Object.assign(input, { type: "range", min: centre - reach, max: centre + reach, step: "any" });
        input.addEventListener("input", () => {
          z[axis] = Number(input.value);
          show();
        });
        label.append(`z${axis + 1}`, input, output);
        sliders.append(label);
        inputs.push([input, output, axis]);
      }
      const more = found.order.length - inputs.length;
      if (more > 0) {
        const hint = document.createElement("p");
        hint.className = "hint";
        hint.textContent = `and ${more} more dimensions${found.points.length ? " in which codes vary less" : ""}`;
        sliders.append(hint);
      }
    }
    choice?.addEventListener("change", show);
    for (const button of element.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        for (const axis of z.keys()) z[axis] = button.dataset.action === "draw" ? normal() : found.centre[axis];
        show();
      });
    }
    if (map && found.program) {
      const move = (event) => {
        if (event.type === "pointermove" && !event.buttons) return;
        const box = map.getBoundingClientRect();
        const at = lying.from((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
        const { centre, directions } = found.plane;
        // What lies across the plane stays at its centre.
        for (const i of z.keys()) z[i] = centre[i] + at[0] * directions[0][i] + at[1] * directions[1][i];
        show();
      };
      map.addEventListener("pointerdown", (event) => {
        map.setPointerCapture(event.pointerId);
        move(event);
      });
      map.addEventListener("pointermove", move);
    }
    show();
  }

  // Draws the codes once; what moves is drawn over it.
  function plot(element, map, found, lying) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [map.width, map.height];
    const context = canvas.getContext("2d");
    const size = map.width;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, size, size);
    context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--line");
    context.lineWidth = 2;
    if (found.normal && !found.points.length) {
      for (const radius of [1, 2, 3]) {
        const [left] = lying.to(-radius, 0, size);
        const [x, y] = lying.to(0, 0, size);
        context.beginPath();
        context.arc(x, y, x - left, 0, 7);
        context.stroke();
      }
    }
    context.globalAlpha = 0.6;
    found.labels.forEach((label, i) => {
      const [x, y] = lying.to(found.points[2 * i], found.points[2 * i + 1], size);
      context.fillStyle = found.colours[label];
      context.beginPath();
      context.arc(x, y, 3.5, 0, 7);
      context.fill();
    });
    const names = `across: ${found.plane.names[0]}; up: ${found.plane.names[1]}`;
    element.querySelector(".axes").textContent = names + (found.caption && `; ${found.caption}`);
    const legend = element.querySelector(".legend");
    if (found.classes.length > 1 && found.classes.length <= 30) {
      found.classes.forEach((name, i) => {
        const entry = document.createElement("span");
        const dot = document.createElement("i");
        dot.style.background = found.colours[i];
        entry.append(dot, name);
        legend.append(entry);
      });
    } else if (found.classes.length > 1) {
      legend.textContent = `${found.classes.length} classes, too many to be named here`;
    }
    return canvas;
  }

  for (const element of document.querySelectorAll(".explorer")) explore(element);

  for (const figure of document.querySelectorAll(".frames")) {
    const captions = JSON.parse(figure.querySelector("script").textContent);
    const pictures = figure.querySelectorAll("img");
    figure.querySelector("input")?.addEventListener("input", (event) => {
      const chosen = Number(event.target.value);
      pictures.forEach((picture, i) => (picture.hidden = i !== chosen));
      figure.querySelector("output").textContent = captions[chosen];
    });
  }

  return { decode };
})();
