"use strict";
const zoom = document.getElementById("zoom");
const large = zoom.querySelector("img");
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.picture");
  if (button) {
    const small = button.querySelector("img");
    large.src = small.src;
    large.alt = small.alt;
    zoom.querySelector("p").textContent = small.alt;
    zoom.showModal();
  } else if (zoom.open) {
    zoom.close();
  }
});
