// Says when the server of the page answers no more, and takes it back when it does again.
() => {
  const TEXT =
    "The connection to the server of this page is lost; nothing more comes of what was asked. " +
    "Start `vlm-heads demo` again where it was ended, then reload this page.";
  const say = (lost) => {
    document.body.classList.toggle("vh-lost", lost);
    document.querySelector("#vh-connection")?.remove();
    if (!lost) return;
    const line = document.createElement("p");
    line.id = "vh-connection";
    line.className = "vh-note vh-mistake";
    line.setAttribute("role", "alert");
    line.textContent = TEXT;
    document.querySelector(".gradio-container").append(line);
  };
  const answers = () =>
    fetch("gradio_api/app_id", { cache: "no-store" }).then(
      (answer) => answer.ok,
      () => false,
    );
  let lost = false;
  const look = async () => {
    const now = !(await answers());
    if (now !== lost) say((lost = now));
    setTimeout(look, 2000);
  };
  look();
}
