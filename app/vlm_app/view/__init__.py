"""What the page shows, without gradio."""
